//! PM2's protocol: AMP framing, axon's request-reply and bus sockets, and the RPC methods.
