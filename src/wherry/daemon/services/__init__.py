"""The daemon's services, one small module each: messages in, stores and shims at work, messages out."""
