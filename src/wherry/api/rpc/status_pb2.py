"""Generated from wherry/api/rpc/status.proto by tools/generate_api.py: do not edit."""

import wherry.api.wellknown_pb2
from wherry.protobuf import load

load(__name__, b'\n\x1bwherry/api/rpc/status.proto\x12\ngoogle.rpc\x1a\x1awherry/api/wellknown.proto"g\n\x06Status\x12\x12\n\x04code\x18\x01 \x01(\x05R\x04code\x12\x18\n\x07message\x18\x02 \x01(\tR\x07message\x12/\n\x07details\x18\x03 \x03(\x0b2\x15.wherry.wellknown.AnyR\x07detailsb\x06proto3')
