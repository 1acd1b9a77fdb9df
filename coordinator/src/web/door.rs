//! Who may read the page: with TLS operators and observers, whose certificates are checked as in every call.

use crate::access::Access;
use identity::Identity;
use page::http::Door;
use rustls::ServerConfig;
use std::sync::Arc;

/// The door of a coordinator's page.
pub(super) struct ForReaders {
    access: Arc<Access>,
    tls: Option<Arc<ServerConfig>>,
}

impl ForReaders {
    pub(super) fn new(access: Arc<Access>, secure: bool) -> Self {
        let tls = access.tls().filter(|_| secure).map(|tls| {
            let mut tls = ServerConfig::clone(&tls);
            tls.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(tls)
        });
        Self { access, tls }
    }
}

impl Door for ForReaders {
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.clone()
    }

    fn admit(&self, who: Option<&Identity>) -> Result<(), String> {
        if self.tls.is_none() { Ok(()) } else { self.access.may_read(who) }
    }
}
