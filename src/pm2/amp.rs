//! AMP framing (spec 3.1): one meta byte, then each argument behind its length.

use bytes::{Buf, Bytes, BytesMut};

/// The largest message that a client takes, in bytes: the list of thousands of apps with their environments.
pub const ANSWER_LIMIT: usize = 64 << 20;
/// The largest message that the daemon takes, in bytes: no environment that a process can be given is nearly as large.
pub const CALL_LIMIT: usize = 16 << 20;
/// The protocol's version, in the upper half of the meta byte.
const VERSION: u8 = 1;

/// Why a stream can't be read on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The message is larger than the limit.
    #[error("a message of more than {limit} bytes was announced")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The first byte is none of this protocol's.
    #[error("what came is not AMP: its first byte is {meta:#04x}")]
    Foreign {
        /// The byte.
        meta: u8,
    },
}

/// Takes one whole message of at most `limit` bytes off the front of the buffer. `None`: more bytes are needed, and none has been
/// taken.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Vec<Bytes>>, FrameError> {
    let Some(&meta) = buffer.first() else {
        return Ok(None);
    };
    // A message without arguments says nothing, and a flood of them would be a byte each.
    if meta >> 4 != VERSION || meta & 0x0f == 0 {
        return Err(FrameError::Foreign { meta });
    }
    let count = usize::from(meta & 0x0f);
    let mut at = 1;
    let mut lengths = [0_usize; 15];
    for slot in lengths.iter_mut().take(count) {
        let Some(head) = buffer.get(at..at + 4) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        *slot = length;
        at += 4 + length;
        if at > limit {
            return Err(FrameError::TooLarge { limit });
        }
        if buffer.len() < at {
            return Ok(None);
        }
    }
    let mut message = buffer.split_to(at).freeze();
    message.advance(1);
    let take = |length: &usize| {
        message.advance(4);
        message.split_to(*length)
    };
    Ok(Some(lengths[..count].iter().map(take).collect()))
}

/// Puts a message together. At most 15 arguments.
pub fn encode(args: &[&[u8]]) -> Vec<u8> {
    debug_assert!(args.len() <= 15, "the meta byte counts to 15");
    let mut out = Vec::with_capacity(1 + args.iter().map(|arg| arg.len() + 4).sum::<usize>());
    out.push(VERSION << 4 | args.len() as u8);
    for arg in args {
        out.extend_from_slice(&(arg.len() as u32).to_be_bytes());
        out.extend_from_slice(arg);
    }
    out
}

/// `s:` and text.
pub fn text(value: &str) -> Vec<u8> {
    [b"s:", value.as_bytes()].concat()
}

/// `j:` and JSON text.
pub fn json(value: &str) -> Vec<u8> {
    [b"j:", value.as_bytes()].concat()
}

/// The JSON text of a `j:` argument.
pub fn as_json(arg: &[u8]) -> Option<&[u8]> {
    arg.strip_prefix(b"j:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ping_is_the_bytes_that_pm2_sends() {
        let call = json(r#"{"type":"call","method":"ping","args":[{}]}"#);
        let bytes = encode(&[&call, &text("24681:0")]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let want = "120000002d6a3a7b2274797065223a2263616c6c222c226d6574686f64223a2270696e67222c2261726773223a5b7b7d5d7d00000009733a32343638313a30";
        assert_eq!(hex, want);
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_arrives() {
        let mut buffer = BytesMut::from(&[0x11, 0xff, 0xff, 0xff, 0xff][..]);
        let limit = CALL_LIMIT;
        assert_eq!(
            decode(&mut buffer, limit),
            Err(FrameError::TooLarge { limit })
        );
    }

    #[test]
    fn what_is_another_protocol_is_refused_at_its_first_byte() {
        for meta in [0x00, 0x10, 0x01, 0x21, b'G', 0xff] {
            let mut buffer = BytesMut::from(&[meta][..]);
            assert_eq!(
                decode(&mut buffer, CALL_LIMIT),
                Err(FrameError::Foreign { meta })
            );
        }
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), cut in 1_usize..7) {
            let borrowed: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            let bytes = encode(&borrowed).repeat(2);
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(message) = decode(&mut buffer, CALL_LIMIT).unwrap() {
                    seen.push(message.iter().map(|arg| arg.to_vec()).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(seen, vec![args.clone(), args]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer, CALL_LIMIT) {}
        }
    }
}
