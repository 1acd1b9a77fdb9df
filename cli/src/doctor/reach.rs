//! The way to a coordinator, step by step, so that the step that fails says what is wrong: the name, the
//! port, the handshake, health, and whether this identity may call.

use super::{
    Report,
    clock::{self, Told},
};
use crate::exit::chain;
use ::worker::{access::Route, config::is_loopback};
use identity::Role;
use proto::{
    limits,
    v1::{self, fleet_client::FleetClient, operator_client::OperatorClient},
};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tonic::{
    Code, Request, Status,
    codegen::Service,
    transport::{Channel, Uri},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Each step may take so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Walks the way to `url` until a step fails. `role`: of the identity that `route` shows, if it shows one.
/// Returns the coordinator's time if it told it.
pub(super) async fn check(
    report: &mut Report,
    url: &str,
    route: Result<Route, String>,
    role: Option<Role>,
) -> Option<Told> {
    let uri = url.parse::<Uri>().ok();
    let parts = uri.as_ref().and_then(|uri| Some((uri, uri.scheme_str()?, uri.host()?)));
    let Some((uri, scheme @ ("http" | "https"), host)) = parts else {
        report.fail("address", format!("`{url}`"), "expected https://HOST:PORT");
        return None;
    };
    let is_plain = scheme == "http";
    let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
    let addresses = resolve(report, host.trim_matches(['[', ']']), port).await?;
    connect(report, &addresses).await?;
    let route = match route {
        Ok(route) => route,
        Err(why) => {
            report.warn("handshake", format!("cannot be tried: {why}"), "mend that first");
            return None;
        }
    };
    if !is_plain {
        shake_hands(report, &route, uri).await?;
    } else if is_loopback(host) {
        report.ok("handshake", "none: plaintext to this machine");
    } else {
        let advice = "use https://, or be sure that you trust everyone on the way";
        report.warn("handshake", "none: plaintext to another machine", advice);
    }
    let channel = match route.endpoint() {
        Ok(endpoint) => endpoint.connect_with_connector_lazy(route.connector()),
        Err(error) => {
            report.fail("health", error, "expected https://HOST:PORT");
            return None;
        }
    };
    let told = health(report, &channel, is_plain).await?;
    call(report, channel, role).await;
    told
}

async fn resolve(report: &mut Report, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let found = timeout(PATIENCE, lookup_host((host, port))).await;
    let error = match found.map_err(io::Error::from).flatten() {
        Ok(addresses) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            report.ok("name", format!("{host} is {}", shown.join(", ")));
            return Some(addresses);
        }
        Err(error) => error,
    };
    report.fail("name", format!("{host}: {error}"), "check the spelling and this machine's DNS");
    None
}

async fn connect(report: &mut Report, addresses: &[SocketAddr]) -> Option<()> {
    let connected = timeout(PATIENCE, TcpStream::connect(addresses)).await;
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let shown = shown.join(", ");
    match connected.map_err(io::Error::from).flatten() {
        Ok(_) => {
            report.ok("port", format!("{shown} accepts connections"));
            Some(())
        }
        Err(error) => {
            let advice = "start the coordinator there, check its `listen` (127.0.0.1 is reached from its own \
                          machine only), and that no firewall is between";
            report.fail("port", format!("{shown}: {error}"), advice);
            None
        }
    }
}

async fn shake_hands(report: &mut Report, route: &Route, uri: &Uri) -> Option<()> {
    let shaken = timeout(PATIENCE, route.connector().call(uri.clone())).await;
    match shaken.map_err(io::Error::from).flatten() {
        Ok(_) => {
            report.ok("handshake", "TLS 1.3; the coordinator's certificate is of the expected authority");
            Some(())
        }
        Err(error) => {
            report.fail("handshake", chain(&error), handshake_advice(&error));
            None
        }
    }
}

fn handshake_advice(error: &io::Error) -> &'static str {
    use rustls::{CertificateError as Bad, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            "the coordinator is of another authority than this identity: check the address, or enrol with a \
             token of this coordinator"
        }
        Some(Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. })) => {
            "add this name to `hosts` under [tls] of the coordinator's configuration and restart it, or use a \
             name that is there"
        }
        Some(Error::InvalidMessage(_)) => "it does not speak TLS: use http:// if it serves plaintext",
        Some(Error::InvalidCertificate(_)) => "compare the clocks of both machines",
        _ => "check that it is a coordinator that listens there; use http:// if it serves plaintext",
    }
}

/// `None`: it does not answer. Otherwise its time, if it told it.
async fn health(report: &mut Report, channel: &Channel, is_plain: bool) -> Option<Option<Told>> {
    let mut request = Request::new(HealthCheckRequest { service: String::new() });
    request.set_timeout(limits::CALL);
    let answer = match HealthClient::new(channel.clone()).check(request).await {
        Ok(answer) => answer,
        Err(status) => {
            let text = chain(&status);
            let advice = if text.contains("alert") {
                "the coordinator refuses this certificate: it has ended, or is of another authority; enrol again"
            } else if is_plain {
                "check that it is a coordinator that listens there; use https:// if it serves TLS"
            } else {
                "check that it is a coordinator that listens there, and see its log"
            };
            report.fail("health", format!("no answer: {text}"), advice);
            return None;
        }
    };
    let date = answer.metadata().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let told = date.map(|date| Told { theirs: clock::seconds(date), ours: clock::now() });
    match answer.into_inner().status() {
        ServingStatus::Serving => report.ok("health", "SERVING"),
        other => {
            let advice = "see the coordinator's log: its store or its certificate fails, or it is stopping";
            report.fail("health", other.as_str_name(), advice);
        }
    }
    Some(told)
}

/// A call that this identity may make and that changes nothing.
async fn call(report: &mut Report, channel: Channel, role: Option<Role>) {
    let answer: Result<(), Status> = match role {
        None => {
            let advice = "start the worker with its token";
            return report.warn("identity", "not enrolled yet, so not tried", advice);
        }
        Some(Role::Worker) => {
            let nothing = v1::FetchRequest { digest: vec![0; 32], ..v1::FetchRequest::default() };
            let mut request = Request::new(nothing);
            request.set_timeout(limits::CALL);
            match FleetClient::new(channel).fetch(request).await {
                // It looked for a vector that does not exist.
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => other.map(drop),
            }
        }
        Some(_) => {
            let mut request = Request::new(v1::ListRunsRequest {});
            request.set_timeout(limits::CALL);
            let mut operator = OperatorClient::new(channel).max_decoding_message_size(limits::MESSAGE_BYTES);
            operator.list_runs(request).await.map(drop)
        }
    };
    let Err(status) = answer else {
        return report.ok("identity", "protocol and identity are accepted");
    };
    let advice = match status.code() {
        Code::Unauthenticated => "enrol again with a token from an operator",
        Code::PermissionDenied => "use a certificate of another role, or ask an operator for one",
        Code::Unimplemented => "use the same version of starling on both sides",
        _ => "see the coordinator's log",
    };
    report.fail("identity", chain(&status), advice);
}
