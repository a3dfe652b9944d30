//! Webhooks: told outside the job's path, signed, and again until they are taken.
//!
//! A webhook is a row in the store, written with the end of its job: it is delivered at least once, also over daemons. The
//! signature is that of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`.

use super::engine::now_ms;
use super::settings::JobSettings;
use super::store::{Hook, Store};
use super::tls::Tls;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use sha2::Sha256;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long one delivery may take.
const WITHIN: Duration = Duration::from_secs(15);
/// How many are delivered at once.
const AT_ONCE: u32 = 4;
/// How long after each failure it is tried again, in seconds; after the last one it is given up.
const AGAIN: [u64; 10] = [2, 5, 15, 60, 300, 900, 3600, 10_800, 21_600, 43_200];

/// What is wrong with a webhook's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// Not a URL that we can post to.
    #[error(
        "a webhook is an address such as https://example.org/done or http://127.0.0.1:8000/done, without a user in it"
    )]
    Url,
    /// A host that is not allowed.
    #[error(
        "webhooks may not go to `{0}`; FORNAX_WEBHOOK_HOSTS lists the hosts that they may go to"
    )]
    Host(String),
}

/// Whether it may be posted to, as far as its text tells.
pub fn check(url: &str, hosts: Option<&[String]>) -> Result<(), WebhookError> {
    let host = place(url).ok_or(WebhookError::Url)?.host;
    let allowed = match hosts {
        Some(hosts) => hosts.contains(&host),
        None => host.parse().map_or(true, is_allowed),
    };
    if allowed {
        Ok(())
    } else {
        Err(WebhookError::Host(host))
    }
}

/// Where a webhook goes.
struct Place {
    host: String,
    port: u16,
    uri: Uri,
    tls: bool,
}

fn place(url: &str) -> Option<Place> {
    let uri: Uri = url.parse().ok()?;
    let (tls, usual) = match uri.scheme_str() {
        Some("http") => (false, 80),
        Some("https") => (true, 443),
        _ => return None,
    };
    if url.len() > 2000 || uri.authority()?.as_str().contains('@') {
        return None;
    }
    let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(usual);
    Some(Place {
        host,
        port,
        uri,
        tls,
    })
}

/// Link-local addresses are those of clouds' metadata services; nothing of a user's is at an unspecified or multicast one.
fn is_allowed(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            !(ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()),
    }
}

/// Delivers what is due, until the daemon ends.
pub(super) async fn run(
    store: Store,
    settings: Arc<JobSettings>,
    wake: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let tls = Tls::new(settings.webhook_ca.clone());
    loop {
        let next = match store.hooks(now_ms(), AT_ONCE).await {
            Ok((due, next)) => {
                let none = due.is_empty();
                let deliveries = due
                    .into_iter()
                    .map(|hook| deliver(&store, &settings, &tls, hook));
                tokio::select! {
                    _ = futures_util::future::join_all(deliveries) => {}
                    () = shutdown.cancelled() => return,
                }
                if !none {
                    continue;
                }
                next
            }
            Err(error) => {
                tracing::warn!(%error, "webhooks cannot be read");
                Some(now_ms() + 5000)
            }
        };
        let wait = next.map(|at| Duration::from_millis(at.saturating_sub(now_ms()).max(10)));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = wake.notified() => {}
            () = async { match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }} => {}
        }
    }
}

async fn deliver(store: &Store, settings: &JobSettings, tls: &Tls, hook: Hook) {
    let tried = tokio::time::timeout(WITHIN, post(settings, tls, &hook)).await;
    let tried = tried.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
    let again = match tried {
        Ok(()) => None,
        Err(why) => {
            let wait = AGAIN.get(hook.tries as usize);
            tracing::warn!(
                job = hook.job,
                tries = hook.tries + 1,
                why,
                given_up = wait.is_none(),
                "a webhook was not taken"
            );
            wait.map(|seconds| now_ms() + seconds * 1000)
        }
    };
    if let Err(error) = store.hook_tried(&hook.job, again).await {
        tracing::warn!(job = hook.job, %error, "a webhook cannot be written down");
    }
}

/// One delivery. Redirections are not followed: they could lead where the address may not.
async fn post(settings: &JobSettings, tls: &Tls, hook: &Hook) -> Result<(), String> {
    let url = &hook.webhook.url;
    check(url, settings.webhook_hosts.as_deref()).map_err(|error| error.to_string())?;
    let place = place(url).ok_or("it is no address")?;
    let (host, uri) = (place.host, place.uri);
    let listed = settings.webhook_hosts.is_some();
    let found = tokio::net::lookup_host((host.as_str(), place.port)).await;
    let found: Vec<SocketAddr> = found
        .map_err(|error| format!("cannot find {host}: {error}"))?
        .collect();
    // A name may be made to lead anywhere: what it leads to counts.
    let address = found
        .into_iter()
        .find(|address| listed || is_allowed(address.ip()));
    let address =
        address.ok_or_else(|| format!("{host} leads to no address that webhooks may go to"))?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let stamp = (now_ms() / 1000).to_string();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(
            HOST,
            uri.authority()
                .map_or(host.as_str(), |authority| authority.as_str()),
        )
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("fornax/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &hook.job)
        .header("webhook-timestamp", &stamp);
    if let Some(secret) = &hook.webhook.secret {
        let signature = sign(secret, &hook.job, &stamp, &hook.body)?;
        request = request.header("webhook-signature", signature);
    }
    let request = request
        .body(Full::new(Bytes::from(hook.body.clone())))
        .map_err(|error| error.to_string())?;
    let status = match place.tls {
        true => exchange(tls.connect(&host, stream).await?, request).await?,
        false => exchange(stream, request).await?,
    };
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("it answered {status}"))
    }
}

/// One request on a connection, and the status of its answer.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut answered = std::pin::pin!(sender.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut answered => response,
        _ = connection => answered.await,
    };
    response
        .map(|response| response.status())
        .map_err(|error| error.to_string())
}

/// `v1,` and the signature. A secret of the form `whsec_BASE64` is decoded, any other is taken as it is.
fn sign(secret: &str, id: &str, stamp: &str, body: &str) -> Result<String, String> {
    let key = secret
        .strip_prefix("whsec_")
        .and_then(|text| STANDARD.decode(text).ok())
        .unwrap_or_else(|| secret.as_bytes().to_vec());
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
    mac.update(format!("{id}.{stamp}.{body}").as_bytes());
    Ok(format!(
        "v1,{}",
        STANDARD.encode(mac.finalize().into_bytes())
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_metadata_services_and_other_schemes_are_refused() {
        for (url, ok) in [
            ("http://127.0.0.1:8000/done?x=1", true),
            ("http://example.org/hook", true),
            ("http://[::1]/hook", true),
            ("https://example.org/hook", true),
            ("https://user@example.org/hook", false),
            ("https://169.254.169.254/", false),
            ("http://169.254.169.254/latest/meta-data", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://[fe80::1]/", false),
            ("http://0.0.0.0/", false),
            ("http://user:pass@example.org/", false),
            ("file:///etc/passwd", false),
            ("nonsense", false),
        ] {
            assert_eq!(check(url, None).is_ok(), ok, "{url}");
        }
        let hosts = ["example.org".to_owned()];
        assert!(check("http://example.org/x", Some(&hosts)).is_ok());
        assert!(check("http://127.0.0.1/x", Some(&hosts)).is_err());
    }

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        // The example of the specification's reference libraries.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signature = sign(
            secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signature.unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }
}
