//! What a ComfyUI tells over its websocket, read from its frames. Pure: any bytes give an event or an error.

use bytes::Bytes;
use serde_json::{Map, Value};

/// One frame. Prompts are named by their id; `None` where the server does not tell it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The queue changed, or the connection is new.
    Status {
        /// Prompts that wait or run.
        remaining: u64,
    },
    /// A prompt begins.
    Started {
        /// Which.
        prompt_id: String,
    },
    /// These nodes are not executed again.
    Cached {
        /// Of which prompt.
        prompt_id: String,
        /// Nodes by id.
        nodes: Vec<String>,
    },
    /// All nodes of a prompt that have begun, each time whole.
    States {
        /// Of which prompt.
        prompt_id: String,
        /// In no order.
        nodes: Vec<NodeProgress>,
    },
    /// A step of a node, a sampler's for instance.
    Step {
        /// Of which prompt.
        prompt_id: Option<String>,
        /// Of which node.
        node: Option<String>,
        /// Steps done.
        value: f64,
        /// Of so many.
        max: f64,
    },
    /// A node begins.
    Executing {
        /// Of which prompt; not told after a reconnection.
        prompt_id: Option<String>,
        /// Which.
        node: String,
    },
    /// An output node has ended, also one that was cached.
    Executed {
        /// Of which prompt.
        prompt_id: String,
        /// Which.
        node: String,
        /// What it made.
        output: Value,
    },
    /// A prompt ran to its end. Its history is *not* written yet.
    Succeeded {
        /// Which.
        prompt_id: String,
    },
    /// A node failed. The history is not written yet.
    Failed {
        /// Which prompt.
        prompt_id: String,
        /// Which node.
        node: String,
        /// Its class.
        class: String,
        /// The exception's class.
        exception_type: String,
        /// Its text.
        exception_message: String,
    },
    /// It was interrupted. The history is not written yet.
    Interrupted {
        /// Which prompt.
        prompt_id: String,
    },
    /// Always the last of a prompt (`executing` without a node): its history is there.
    Ended {
        /// Which.
        prompt_id: Option<String>,
    },
    /// A picture of work in progress.
    Preview {
        /// Of which prompt; told only where metadata were negotiated.
        prompt_id: Option<String>,
        /// Of which node; the same.
        node: Option<String>,
        /// How it is coded.
        format: ImageFormat,
        /// The picture.
        image: Bytes,
    },
    /// Words of a node.
    Text {
        /// Which.
        node: String,
        /// Its words.
        text: String,
    },
    /// Lines of the instance's log, after a subscription.
    Logs {
        /// As they were printed.
        lines: Vec<String>,
    },
    /// Something else, known or not.
    Other {
        /// Its type, at most 100 characters.
        kind: String,
    },
}

/// How a picture is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeProgress {
    /// Which.
    pub node: String,
    /// `running`, `finished`, …
    pub state: String,
    /// Steps done.
    pub value: f64,
    /// Of so many.
    pub max: f64,
}

/// Why a frame is no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A text frame that is not `{"type": …, "data": …}`.
    #[error("a text frame is not a message")]
    NoMessage,
    /// A binary frame that is cut, or of an unknown kind.
    #[error("a binary frame of {length} bytes is cut or of an unknown kind")]
    Binary {
        /// How long it was.
        length: usize,
    },
}

/// Reads a text frame.
pub(super) fn text(frame: &str) -> Result<Event, EventError> {
    let told: Value = serde_json::from_str(frame).map_err(|_| EventError::NoMessage)?;
    let kind = told
        .get("type")
        .and_then(Value::as_str)
        .ok_or(EventError::NoMessage)?;
    let data = told.get("data").unwrap_or(&Value::Null);
    Ok(read(kind, data).unwrap_or_else(|| Event::Other {
        kind: kind.chars().take(100).collect(),
    }))
}

fn word(data: &Value, name: &str) -> Option<String> {
    data.get(name)?.as_str().map(str::to_owned)
}

/// `None` for a type that we do not read, or that lacks what it should have.
fn read(kind: &str, data: &Value) -> Option<Event> {
    let prompt_id = || word(data, "prompt_id");
    Some(match kind {
        "status" => Event::Status {
            remaining: data
                .pointer("/status/exec_info/queue_remaining")?
                .as_u64()?,
        },
        "execution_start" => Event::Started {
            prompt_id: prompt_id()?,
        },
        "execution_cached" => Event::Cached {
            prompt_id: prompt_id()?,
            nodes: strings(data.get("nodes")?),
        },
        "progress_state" => Event::States {
            prompt_id: prompt_id()?,
            nodes: states(data.get("nodes")?.as_object()?),
        },
        "progress" => Event::Step {
            prompt_id: prompt_id(),
            node: word(data, "node"),
            value: data.get("value")?.as_f64()?,
            max: data.get("max")?.as_f64()?,
        },
        "executing" => match word(data, "node") {
            Some(node) => Event::Executing {
                prompt_id: prompt_id(),
                node,
            },
            None => Event::Ended {
                prompt_id: prompt_id(),
            },
        },
        "executed" => Event::Executed {
            prompt_id: prompt_id()?,
            node: word(data, "node")?,
            output: data.get("output").cloned().unwrap_or_default(),
        },
        "execution_success" => Event::Succeeded {
            prompt_id: prompt_id()?,
        },
        "execution_error" => Event::Failed {
            prompt_id: prompt_id()?,
            node: word(data, "node_id").unwrap_or_default(),
            class: word(data, "node_type").unwrap_or_default(),
            exception_type: word(data, "exception_type").unwrap_or_default(),
            exception_message: word(data, "exception_message").unwrap_or_default(),
        },
        "execution_interrupted" => Event::Interrupted {
            prompt_id: prompt_id()?,
        },
        "logs" => Event::Logs {
            lines: data
                .get("entries")?
                .as_array()?
                .iter()
                .filter_map(|entry| word(entry, "m"))
                .collect(),
        },
        _ => return None,
    })
}

fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn states(nodes: &Map<String, Value>) -> Vec<NodeProgress> {
    let number = |node: &Value, name| node.get(name).and_then(Value::as_f64).unwrap_or_default();
    nodes
        .iter()
        .map(|(id, node)| NodeProgress {
            node: word(node, "display_node_id").unwrap_or_else(|| id.clone()),
            state: word(node, "state").unwrap_or_default(),
            value: number(node, "value"),
            max: number(node, "max"),
        })
        .collect()
}

/// Reads a binary frame: numbers are big-endian.
pub(super) fn binary(frame: &Bytes) -> Result<Event, EventError> {
    let wrong = || EventError::Binary {
        length: frame.len(),
    };
    let number = |at: usize| {
        let bytes = frame.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let read = || {
        let (kind, second) = (number(0)?, number(4)?);
        Some(match kind {
            1 => Event::Preview {
                prompt_id: None,
                node: None,
                format: format(second)?,
                image: frame.slice(8..),
            },
            3 => {
                let end = 8 + second as usize;
                let node = std::str::from_utf8(frame.get(8..end)?).ok()?.to_owned();
                let text = String::from_utf8_lossy(&frame[end..]).into_owned();
                Event::Text { node, text }
            }
            4 => {
                let end = 8 + second as usize;
                let told: Value = serde_json::from_slice(frame.get(8..end)?).ok()?;
                Event::Preview {
                    prompt_id: word(&told, "prompt_id"),
                    node: word(&told, "display_node_id").or_else(|| word(&told, "node_id")),
                    format: match told.get("image_type").and_then(Value::as_str) {
                        Some("image/png") => ImageFormat::Png,
                        _ => ImageFormat::Jpeg,
                    },
                    image: frame.slice(end..),
                }
            }
            _ => return None,
        })
    };
    read().ok_or_else(wrong)
}

fn format(number: u32) -> Option<ImageFormat> {
    match number {
        1 => Some(ImageFormat::Jpeg),
        2 => Some(ImageFormat::Png),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_end_is_told_from_a_node_that_begins() {
        let node = text(r#"{"type":"executing","data":{"node":"3","prompt_id":"p"}}"#);
        assert_eq!(
            node,
            Ok(Event::Executing {
                prompt_id: Some("p".into()),
                node: "3".into()
            })
        );
        let end = text(r#"{"type":"executing","data":{"node":null,"prompt_id":"p"}}"#);
        assert_eq!(
            end,
            Ok(Event::Ended {
                prompt_id: Some("p".into())
            })
        );
    }

    #[test]
    fn previews_come_with_and_without_their_node() {
        let plain = Bytes::from_static(b"\0\0\0\x01\0\0\0\x02picture");
        let read = binary(&plain).unwrap();
        let want = Event::Preview {
            prompt_id: None,
            node: None,
            format: ImageFormat::Png,
            image: "picture".into(),
        };
        assert_eq!(read, want);
        let told = br#"{"prompt_id":"p","node_id":"2","image_type":"image/jpeg"}"#;
        let mut frame = vec![0, 0, 0, 4, 0, 0, 0, u8::try_from(told.len()).unwrap()];
        frame.extend(told);
        frame.extend(b"jpg");
        let want = Event::Preview {
            prompt_id: Some("p".into()),
            node: Some("2".into()),
            format: ImageFormat::Jpeg,
            image: "jpg".into(),
        };
        assert_eq!(binary(&frame.into()).unwrap(), want);
    }

    #[test]
    fn what_is_unknown_or_cut_is_told_as_such() {
        assert_eq!(
            text(r#"{"type":"new_thing","data":{}}"#),
            Ok(Event::Other {
                kind: "new_thing".into()
            })
        );
        assert_eq!(
            text(r#"{"type":"progress","data":{}}"#),
            Ok(Event::Other {
                kind: "progress".into()
            })
        );
        assert_eq!(text("[]"), Err(EventError::NoMessage));
        assert_eq!(
            binary(&Bytes::from_static(b"\0\0\0\x04\xff\xff\xff\xff")),
            Err(EventError::Binary { length: 8 })
        );
    }

    proptest! {
        #[test]
        fn no_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), words in "\\PC{0,100}") {
            let _ = binary(&bytes.into());
            let _ = text(&words);
        }
    }
}
