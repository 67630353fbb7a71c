"""Generated from wherry/api/runtime/options/v1/options.proto by tools/generate_api.py: do not edit."""

from wherry.protobuf import load

load(__name__, b'\n+wherry/api/runtime/options/v1/options.proto\x12\x11runtimeoptions.v1"f\n\x07Options\x12\x19\n\x08type_url\x18\x01 \x01(\tR\x07typeUrl\x12\x1f\n\x0bconfig_path\x18\x02 \x01(\tR\nconfigPath\x12\x1f\n\x0bconfig_body\x18\x03 \x01(\x0cR\nconfigBodyb\x06proto3')
