"""Generated from wherry/ttrpc/ttrpc.proto by tools/generate_api.py: do not edit."""

import wherry.api.rpc.status_pb2
from wherry.protobuf import load

load(__name__, b'\n\x18wherry/ttrpc/ttrpc.proto\x12\x05ttrpc\x1a\x1bwherry/api/rpc/status.proto"\xa5\x01\n\x07Request\x12\x18\n\x07service\x18\x01 \x01(\tR\x07service\x12\x16\n\x06method\x18\x02 \x01(\tR\x06method\x12\x18\n\x07payload\x18\x03 \x01(\x0cR\x07payload\x12!\n\x0ctimeout_nano\x18\x04 \x01(\x03R\x0btimeoutNano\x12+\n\x08metadata\x18\x05 \x03(\x0b2\x0f.ttrpc.KeyValueR\x08metadata"P\n\x08Response\x12*\n\x06status\x18\x01 \x01(\x0b2\x12.google.rpc.StatusR\x06status\x12\x18\n\x07payload\x18\x02 \x01(\x0cR\x07payload"2\n\x08KeyValue\x12\x10\n\x03key\x18\x01 \x01(\tR\x03key\x12\x14\n\x05value\x18\x02 \x01(\tR\x05value"\'\n\rCancelRequest\x12\x16\n\x06stream\x18\x01 \x01(\rR\x06streamb\x06proto3')
