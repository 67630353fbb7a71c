"""Generated from wherry/api/wellknown.proto by tools/generate_api.py: do not edit."""

from wherry.protobuf import load

load(__name__, b'\n\x1awherry/api/wellknown.proto\x12\x10wherry.wellknown";\n\tTimestamp\x12\x18\n\x07seconds\x18\x01 \x01(\x03R\x07seconds\x12\x14\n\x05nanos\x18\x02 \x01(\x05R\x05nanos"6\n\x03Any\x12\x19\n\x08type_url\x18\x01 \x01(\tR\x07typeUrl\x12\x14\n\x05value\x18\x02 \x01(\x0cR\x05value"\x07\n\x05Empty"!\n\tFieldMask\x12\x14\n\x05paths\x18\x01 \x03(\tR\x05pathsb\x06proto3')
