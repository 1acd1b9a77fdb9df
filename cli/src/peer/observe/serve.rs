//! The observer's page: what was seen at the last look, for whoever asks.

use crate::exit::{Code, Failure};
use page::{
    http::{self, Open},
    peers::Peers,
};
use std::net::SocketAddr;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Serves until the handle is dropped.
///
/// # Errors
/// If the address is taken, or others could read there.
pub(super) async fn start(
    address: SocketAddr,
    insecure: bool,
    seen: watch::Receiver<Peers>,
) -> Result<AbortOnDropHandle<()>, Failure> {
    if !address.ip().is_loopback() && !insecure {
        return Err(Failure::usage(format!(
            "--page: {address} can be reached from other machines, and whoever reaches it could read all that the \
             page tells; use 127.0.0.1, or --insecure on a network that you trust"
        )));
    }
    let cannot = |error| {
        let text =
            format!("--page: cannot listen on {address} ({error}); choose a free address of this machine");
        Failure::new(Code::Unavailable, text)
    };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let at = listener.local_addr().map_err(cannot)?;
    crate::output::note(format!("the page is at http://{at}/"));
    let routes = http::of_peers(seen);
    Ok(AbortOnDropHandle::new(tokio::spawn(http::serve(listener, routes, Open, CancellationToken::new()))))
}
