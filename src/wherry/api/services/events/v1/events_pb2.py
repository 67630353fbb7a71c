"""Generated from wherry/api/services/events/v1/events.proto by tools/generate_api.py: do not edit."""

import wherry.api.types.types_pb2
import wherry.api.wellknown_pb2
from wherry.protobuf import load

load(__name__, b'\n*wherry/api/services/events/v1/events.proto\x12\x1dcontainerd.services.events.v1\x1a\x1awherry/api/wellknown.proto\x1a\x1cwherry/api/types/types.proto"S\n\x0ePublishRequest\x12\x14\n\x05topic\x18\x01 \x01(\tR\x05topic\x12+\n\x05event\x18\x02 \x01(\x0b2\x15.wherry.wellknown.AnyR\x05event"H\n\x0eForwardRequest\x126\n\x08envelope\x18\x01 \x01(\x0b2\x1a.containerd.types.EnvelopeR\x08envelope",\n\x10SubscribeRequest\x12\x18\n\x07filters\x18\x01 \x03(\tR\x07filters2\x8a\x02\n\x06Events\x12Q\n\x07Publish\x12-.containerd.services.events.v1.PublishRequest\x1a\x17.wherry.wellknown.Empty\x12Q\n\x07Forward\x12-.containerd.services.events.v1.ForwardRequest\x1a\x17.wherry.wellknown.Empty\x12Z\n\tSubscribe\x12/.containerd.services.events.v1.SubscribeRequest\x1a\x1a.containerd.types.Envelope0\x01b\x06proto3')
