//! `POST /prompt`: a graph to be run, and what became of the wish.

use super::calls::{Ask, Client};
use super::error::ClientError;
use crate::core::refusal::Refusal;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A graph to be run.
#[derive(Debug, Serialize)]
pub struct Submission<'a> {
    /// The graph in API format, as it is sent.
    pub prompt: &'a RawValue,
    /// Ours to choose: a lower-case UUID, new for each attempt. Later ComfyUI refuses any other, and none notices a repeat.
    pub prompt_id: &'a str,
    /// Whose websocket is told.
    pub client_id: &'a str,
    /// Before all that wait.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub front: bool,
    /// What goes along, into the queue and the metadata of pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_data: Option<&'a Map<String, Value>>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    /// It waits or runs, whole.
    Accepted {
        /// Its place: lower runs first.
        number: f64,
    },
    /// It waits or runs without the outputs that the errors concern.
    Partial {
        /// Its place.
        number: f64,
        /// What is wrong with the rest.
        refusal: Refusal,
    },
    /// It does not run.
    Refused(Refusal),
}

impl Client {
    /// Submits. After an error that is not [`ClientError::is_unheard`] it may be there all the same: look for the id in
    /// [`Client::queue`] and [`Client::history`] before it is sent again.
    pub async fn submit(&self, submission: &Submission<'_>) -> Result<Submitted, ClientError> {
        const PATH: &str = "/prompt";
        let unreadable = |source| ClientError::Unreadable {
            path: PATH.to_owned(),
            source,
        };
        let body = serde_json::to_vec(submission).map_err(unreadable)?;
        let ask = Ask::post(PATH, body.into());
        let answered = self.ask(ask, self.limits.submit).await?;
        if answered.status == 400
            && let Ok(told) = serde_json::from_slice::<Value>(&answered.body)
            && told.get("error").is_some()
        {
            return Ok(Submitted::Refused(Refusal::read(&told)));
        }
        let body = super::calls::success(PATH, answered)?;
        let told: Value = serde_json::from_slice(&body).map_err(unreadable)?;
        let number = told
            .get("number")
            .and_then(Value::as_f64)
            .unwrap_or_default();
        let whole = told
            .get("node_errors")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty);
        if whole {
            return Ok(Submitted::Accepted { number });
        }
        Ok(Submitted::Partial {
            number,
            refusal: Refusal::read(&told),
        })
    }
}
