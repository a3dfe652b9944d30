//! Port 9090: health, services, logs, over HTTP.
