//! A browser of the simplest kind: one request, one answer, nothing interpreted.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer comes within this time.
const PATIENCE: Duration = Duration::from_mins(1);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its code.
    pub status: u16,
    /// Its headers, by name in lower case.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The value of a metric whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let line = self.body.lines().find(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        })?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// Asks for a path.
pub async fn get(address: SocketAddr, path: &str) -> Reply {
    ask(address, "GET", path, &address.to_string()).await
}

/// Asks with a method and for a host.
pub async fn ask(address: SocketAddr, method: &str, path: &str, host: &str) -> Reply {
    let stream = TcpStream::connect(address).await.expect("the page is there");
    over(stream, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")).await
}

/// Says something on a connection, and reads the answer.
pub async fn over(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Reply {
    let mut bytes = Vec::new();
    let talk = async {
        stream.write_all(request.as_bytes()).await.expect("the request is taken");
        // Over TLS a peer may close without saying so: what came is what counts.
        let _ = stream.read_to_end(&mut bytes).await;
    };
    timeout(PATIENCE, talk).await.expect("an answer comes in time");
    let text = String::from_utf8(bytes).expect("an answer in UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Reply { status, headers, body: body.to_owned() }
}
