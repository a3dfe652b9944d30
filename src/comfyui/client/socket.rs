//! The websocket of one ComfyUI: events as they come. The server sends no pings, so a dead peer is found by ours.

use super::calls::{Client, escaped};
use super::error::ClientError;
use super::event::{self, Event};
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The largest message taken, in bytes: previews and the outputs of a node.
const LARGEST: usize = 16 << 20;
/// Silence after which we ping.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Silence after which the peer is given up. A node that holds the interpreter's lock silences its server for seconds.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// How long opening may take.
const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// An open websocket.
#[derive(Debug)]
pub struct Events {
    socket: WebSocketStream<TcpStream>,
    address: SocketAddr,
    heard_at: Instant,
    pinged: bool,
}

impl Client {
    /// `GET /ws?clientId=`: opens the websocket under this id, and asks for previews that name their prompt. Take a new id for
    /// each connection: when the older of two with one id closes, the server forgets the newer one too.
    pub async fn events(&self, client_id: &str) -> Result<Events, ClientError> {
        let address = self.address;
        let socket = |source: Error| ClientError::Socket {
            address,
            source: Box::new(source),
        };
        let open = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|source| ClientError::Connect { address, source })?;
            // Without it, pings go out a little later.
            let _ = stream.set_nodelay(true);
            let url = format!("ws://{address}/ws?clientId={}", escaped(client_id));
            let config = WebSocketConfig::default()
                .max_message_size(Some(LARGEST))
                .max_frame_size(Some(LARGEST));
            let (mut opened, _) =
                tokio_tungstenite::client_async_with_config(url, stream, Some(config))
                    .await
                    .map_err(socket)?;
            let features = r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#;
            opened.send(Message::text(features)).await.map_err(socket)?;
            Ok(Events {
                socket: opened,
                address,
                heard_at: Instant::now(),
                pinged: false,
            })
        };
        let late = ClientError::Late {
            method: "GET",
            path: "/ws".to_owned(),
            limit: OPEN_WITHIN,
        };
        tokio::time::timeout(OPEN_WITHIN, open)
            .await
            .unwrap_or(Err(late))
    }
}

impl Events {
    /// The next event; an error is the end of the connection. Frames that cannot be read are left out. May be dropped while it
    /// waits: nothing is lost.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let until = self.heard_at + if self.pinged { GONE_AFTER } else { PING_AFTER };
            let Ok(message) = tokio::time::timeout_at(until, self.socket.next()).await else {
                self.silent().await?;
                continue;
            };
            let message = message.ok_or_else(|| self.gone("was closed".to_owned()))?;
            let message = message.map_err(|source| ClientError::Socket {
                address: self.address,
                source: Box::new(source),
            })?;
            (self.heard_at, self.pinged) = (Instant::now(), false);
            let read = match message {
                Message::Text(text) => event::text(&text),
                Message::Binary(bytes) => event::binary(&bytes),
                Message::Close(_) => return Err(self.gone("was closed".to_owned())),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            match read {
                Ok(event) => return Ok(event),
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "a websocket frame was left out")
                }
            }
        }
    }

    async fn silent(&mut self) -> Result<(), ClientError> {
        if self.pinged {
            let how = format!("has been silent for {} s", GONE_AFTER.as_secs());
            return Err(self.gone(how));
        }
        self.pinged = true;
        let sent = tokio::time::timeout(
            OPEN_WITHIN,
            self.socket.send(Message::Ping(Default::default())),
        );
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(ClientError::Socket {
                address: self.address,
                source: Box::new(source),
            }),
            Err(_) => Err(self.gone("does not take a ping".to_owned())),
        }
    }

    fn gone(&self, how: String) -> ClientError {
        ClientError::Gone {
            address: self.address,
            how,
        }
    }
}
