//! `?wait=healthy&timeout=60s` of a service's health: the answer waits until the service is so, or the time is over.

use super::app::{App, Caller};
use super::problem::Problem;
use super::services;
use crate::core::service::ServiceStatus;
use crate::core::units::Millis;
use axum::extract::Query;
use axum::http::Uri;
use std::sync::Arc;
use std::time::Duration;

/// How long is waited where no time is given, and at most.
const USUAL: Millis = Millis::from_secs(60);
const LONGEST: Millis = Millis::from_secs(3600);

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait {
    status: ServiceStatus,
    timeout: Duration,
}

impl Wait {
    /// Of a request; `None`: it does not wait.
    pub fn read(uri: &Uri) -> Result<Option<Self>, Problem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|rejection| Problem::parameter("?", rejection.body_text()))?;
        let (mut status, mut timeout) = (None, USUAL);
        for (name, value) in pairs.0 {
            match name.as_str() {
                "wait" => {
                    let known = ServiceStatus::ALL
                        .into_iter()
                        .find(|status| status.as_str() == value);
                    let words = || ServiceStatus::ALL.map(ServiceStatus::as_str).join(", ");
                    status = Some(known.ok_or_else(|| {
                        Problem::parameter("wait", format!("there are {}", words()))
                    })?);
                }
                "timeout" => {
                    let fit = Millis::parse(&value).filter(|time| *time <= LONGEST);
                    timeout = fit.ok_or_else(|| {
                        Problem::parameter("timeout", "it is a time such as 60s, at most 1h")
                    })?;
                }
                other => {
                    return Err(Problem::parameter(
                        other,
                        "it is not known; there are wait, timeout",
                    ));
                }
            }
        }
        Ok(status.map(|status| Self {
            status,
            timeout: timeout.duration(),
        }))
    }

    /// Waits; the answer is made afterwards, of whatever is then.
    pub async fn until(&self, app: &App, caller: &Caller, name: &str) -> Result<(), Problem> {
        let _seat = Arc::clone(&app.followers)
            .try_acquire_owned()
            .map_err(|_| Problem::Busy)?;
        let mut snapshots = app.handle.snapshots.clone();
        let reached = async {
            loop {
                let snapshot = Arc::clone(&snapshots.borrow_and_update());
                // One that is not there yet may come.
                let found = services::find(&snapshot, name).ok();
                let worst = found.as_ref().and_then(services::Found::worst);
                if worst.is_some_and(|service| service.status() == self.status) {
                    return;
                }
                if snapshots.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = reached => {}
            () = tokio::time::sleep(self.timeout) => {}
            () = caller.closing.cancelled() => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_and_slips_are_told() {
        let read = |query: &str| {
            Wait::read(&format!("/x?{query}").parse().unwrap())
                .map_err(|problem| problem.to_string())
        };
        assert_eq!(read(""), Ok(None));
        let want = Wait {
            status: ServiceStatus::Healthy,
            timeout: Duration::from_secs(5),
        };
        assert_eq!(read("wait=healthy&timeout=5s"), Ok(Some(want)));
        assert!(read("wait=good").unwrap_err().contains("healthy"));
        assert!(read("wait=healthy&timeout=2h").unwrap_err().contains("1h"));
        assert!(read("timout=1").is_err());
    }
}
