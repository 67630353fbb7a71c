"""Generated from wherry/api/services/events/ttrpc/v1/events.proto by tools/generate_api.py: do not edit."""

import wherry.api.types.types_pb2
import wherry.api.wellknown_pb2
from wherry.protobuf import load

load(__name__, b'\n0wherry/api/services/events/ttrpc/v1/events.proto\x12#containerd.services.events.ttrpc.v1\x1a\x1awherry/api/wellknown.proto\x1a\x1cwherry/api/types/types.proto"H\n\x0eForwardRequest\x126\n\x08envelope\x18\x01 \x01(\x0b2\x1a.containerd.types.EnvelopeR\x08envelope2a\n\x06Events\x12W\n\x07Forward\x123.containerd.services.events.ttrpc.v1.ForwardRequest\x1a\x17.wherry.wellknown.Emptyb\x06proto3')
