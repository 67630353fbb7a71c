"""Generated from wherry/api/services/streaming/v1/streaming.proto by tools/generate_api.py: do not edit."""

import wherry.api.wellknown_pb2
from wherry.protobuf import load

load(__name__, b'\n0wherry/api/services/streaming/v1/streaming.proto\x12 containerd.services.streaming.v1\x1a\x1awherry/api/wellknown.proto"\x1c\n\nStreamInit\x12\x0e\n\x02id\x18\x01 \x01(\tR\x02id2G\n\tStreaming\x12:\n\x06Stream\x12\x15.wherry.wellknown.Any\x1a\x15.wherry.wellknown.Any(\x010\x01b\x06proto3')
