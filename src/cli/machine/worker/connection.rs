//! One connection to Redis, made anew when it is lost.

use super::options::Target;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// How long one answer may take; reading new entries waits for them meanwhile.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// From one try to reach Redis to the next: the first, and the longest.
const FIRST_REST: Duration = Duration::from_millis(200);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// A connection that any number of tasks may ask by.
pub struct Connection {
    target: Arc<Target>,
    /// Its loss and its return are told.
    aloud: bool,
    /// A lock of tokio's, as it is held while a connection is made: nobody else needs to try meanwhile.
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    open: Option<MultiplexedConnection>,
    /// It has been told that Redis cannot be reached.
    told: bool,
}

/// Whether it makes sense to ask again later: all but what Redis has understood and refuses.
fn is_passing(error: &RedisError) -> bool {
    let code = error.code().unwrap_or_default();
    error.is_io_error()
        || error.is_timeout()
        || matches!(
            code,
            "LOADING"
                | "BUSY"
                | "TRYAGAIN"
                | "MASTERDOWN"
                | "READONLY"
                | "OOM"
                | "MISCONF"
                | "CLUSTERDOWN"
                | "NOGROUP"
        )
        || matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
}

impl Connection {
    /// Nothing is connected yet.
    pub fn new(target: Arc<Target>, aloud: bool) -> Self {
        Self {
            target,
            aloud,
            line: Mutex::default(),
        }
    }

    /// The connection, made if there is none.
    async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut line = self.line.lock().await;
        if let Some(open) = &line.open {
            return Ok(open.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let made = self
            .target
            .client
            .get_multiplexed_async_connection_with_config(&config);
        match made.await {
            Ok(open) => {
                if self.aloud {
                    let again = if line.told { " again" } else { "" };
                    say!("{} is there{again}", self.target.shown);
                }
                line.told = false;
                line.open = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                if self.aloud && !line.told {
                    say!(
                        "{} cannot be reached: {error}; what is in work goes on, and its results are kept",
                        self.target.shown
                    );
                    line.told = true;
                }
                Err(error)
            }
        }
    }

    /// Asks once.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        let mut open = self.open().await?;
        self.heard(command.query_async(&mut open).await).await
    }

    /// Asks several things at once.
    pub async fn ask_all(&self, pipeline: &Pipeline) -> Result<(), RedisError> {
        let mut open = self.open().await?;
        self.heard(pipeline.query_async(&mut open).await).await
    }

    /// A connection that has failed is not used again.
    async fn heard<T>(&self, answered: Result<T, RedisError>) -> Result<T, RedisError> {
        if let Err(error) = &answered
            && (error.is_io_error() || error.is_timeout() || error.is_connection_dropped())
        {
            self.line.lock().await.open = None;
        }
        answered
    }

    /// Asks until Redis answers, or the wish is over.
    pub async fn patiently<T: FromRedisValue>(
        &self,
        command: &Cmd,
        over: &CancellationToken,
    ) -> Option<T> {
        let mut rest = FIRST_REST;
        loop {
            match self.ask(command).await {
                Ok(answer) => return Some(answer),
                Err(error) if !is_passing(&error) => {
                    say!("redis refuses: {error}");
                    return None;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = over.cancelled() => return None,
                () = tokio::time::sleep(rest) => rest = (rest * 2).min(LONGEST_REST),
            }
        }
    }
}
