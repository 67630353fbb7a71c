"""Generated from wherry/api/services/transfer/v1/transfer.proto by tools/generate_api.py: do not edit."""

import wherry.api.wellknown_pb2
from wherry.protobuf import load

load(__name__, b'\n.wherry/api/services/transfer/v1/transfer.proto\x12\x1fcontainerd.services.transfer.v1\x1a\x1awherry/api/wellknown.proto"\xc5\x01\n\x0fTransferRequest\x12-\n\x06source\x18\x01 \x01(\x0b2\x15.wherry.wellknown.AnyR\x06source\x127\n\x0bdestination\x18\x02 \x01(\x0b2\x15.wherry.wellknown.AnyR\x0bdestination\x12J\n\x07options\x18\x03 \x01(\x0b20.containerd.services.transfer.v1.TransferOptionsR\x07options":\n\x0fTransferOptions\x12\'\n\x0fprogress_stream\x18\x01 \x01(\tR\x0eprogressStream2a\n\x08Transfer\x12U\n\x08Transfer\x120.containerd.services.transfer.v1.TransferRequest\x1a\x17.wherry.wellknown.Emptyb\x06proto3')
