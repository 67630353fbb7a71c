"""Generated from wherry/api/services/version/v1/version.proto by tools/generate_api.py: do not edit."""

import wherry.api.wellknown_pb2
from wherry.protobuf import load

load(__name__, b'\n,wherry/api/services/version/v1/version.proto\x12\x1econtainerd.services.version.v1\x1a\x1awherry/api/wellknown.proto"G\n\x0fVersionResponse\x12\x18\n\x07version\x18\x01 \x01(\tR\x07version\x12\x1a\n\x08revision\x18\x02 \x01(\tR\x08revision2^\n\x07Version\x12S\n\x07Version\x12\x17.wherry.wellknown.Empty\x1a/.containerd.services.version.v1.VersionResponseb\x06proto3')
