//! TLS of webhooks: whom we believe that they are who they say.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects by TLS. The authorities are read when it is first used, from the machine (`SSL_CERT_FILE` says where, if not in the
/// usual place) and from a file of the owner's.
#[derive(Default)]
pub(super) struct Tls {
    extra: Option<PathBuf>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    /// Believes the authorities in this file (PEM) too.
    pub fn new(extra: Option<PathBuf>) -> Self {
        Self {
            extra,
            config: OnceCell::new(),
        }
    }

    /// The handshake; an error says what of the certificate is not believed.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("`{host}` is no name that a certificate may have"))?;
        let config = self.config.get_or_try_init(|| async {
            let extra = self.extra.clone();
            let made = tokio::task::spawn_blocking(move || config(extra.as_ref())).await;
            made.map_err(|error| error.to_string())?
        });
        let connector = TlsConnector::from(Arc::clone(config.await?));
        let connected = connector.connect(name, stream).await;
        connected.map_err(|error| format!("no TLS with {host}: {error}"))
    }
}

fn config(extra: Option<&PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is not believed; without any nothing can be.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = extra {
        let failed = |error: &dyn std::fmt::Display| {
            format!("FORNAX_WEBHOOK_CA: {}: {error}", path.display())
        };
        let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
        for certificate in found {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
