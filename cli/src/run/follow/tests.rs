//! The log in words, and across a restart of a real coordinator.

use super::*;
use crate::host::Host;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[test]
fn events_keep_what_a_newer_coordinator_says() {
    let event = |body: &str| Logged::new(&v1::Event { sequence: 4, time_ms: 9, body: body.into() });
    let known = event(r#"{"event":"paused"}"#);
    assert_eq!(known.event, Some(RunEvent::Paused {}));
    assert_eq!(known.json().to_string(), r#"{"event":"paused","sequence":4,"time_ms":9}"#);
    let newer = event(r#"{"event":"moved","where":"b"}"#);
    assert_eq!(newer.event, None);
    assert_eq!(newer.json()["where"], "b");
    assert!(newer.line().contains("moved"));
    assert_eq!(event("no json").json()["body"], "no json");
}

#[test]
fn the_end_decides_the_exit_code() {
    assert_eq!(verdict("a", &RunEvent::Cancelled {}).unwrap_err().code, Code::Failed);
    let failed = verdict("a", &RunEvent::Failed { reason: "disk".into() }).unwrap_err();
    assert!(failed.message.contains("disk"), "{failed}");
    let model_digest = proto::digest::Digest::of(b"");
    verdict("a", &RunEvent::Finished { rounds: 1, model_digest }).unwrap();
}

type Serving = tokio::task::JoinHandle<Result<(), ::coordinator::ServeError>>;

/// A coordinator on an address, until the token is cancelled.
async fn serve(folder: &Path, address: SocketAddr, stop: CancellationToken) -> (SocketAddr, Serving) {
    let config = ::coordinator::Config { data_dir: folder.to_owned(), ..::coordinator::Config::default() };
    let host = Arc::new(Host::new(BTreeMap::new(), BTreeMap::new(), 1));
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(::coordinator::serve(config, host, listener, stop.cancelled_owned())))
}

#[tokio::test]
async fn a_restart_of_the_coordinator_loses_no_event() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let (address, first) = serve(folder.path(), SocketAddr::from(([127, 0, 0, 1], 0)), stop.clone()).await;
    let url = format!("http://{address}");
    let target = Target { coordinator: url, identity: None, insecure: false };
    let spec = "name = \"a\"\nrounds = 1\n[model]\nkind = \"flat\"\nparameters = 3\n[data]\nname = \"x\"\n";
    let run = Operator::connect(&target).await.unwrap().submit(spec.to_owned()).await.unwrap();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let follower = tokio::spawn({
        let (target, run) = (target.clone(), run.id.clone());
        async move {
            let each = |what: Seen<'_>| {
                let text = match what {
                    Seen::Event(logged) => logged.sequence.to_string(),
                    Seen::Lost(_) => "lost".to_owned(),
                    Seen::Back => "back".to_owned(),
                };
                sender.send(text).map_err(Failure::internal)
            };
            follow(&target, &run, 0, each).await
        }
    });
    let mut all = vec![seen.recv().await.unwrap()];
    stop.cancel();
    while all.last().unwrap() != "lost" {
        all.push(seen.recv().await.unwrap());
    }
    first.await.unwrap().unwrap();
    serve(folder.path(), address, CancellationToken::new()).await;
    let mut operator = Operator::connect(&target).await.unwrap();
    operator.control("a", v1::RunCommand::Cancel).await.unwrap();
    assert_eq!(follower.await.unwrap().unwrap(), RunEvent::Cancelled {});
    while let Some(text) = seen.recv().await {
        all.push(text);
    }
    let (events, others): (Vec<String>, Vec<String>) =
        all.into_iter().partition(|text| text.parse::<u64>().is_ok());
    assert_eq!(others, ["lost", "back"]);
    let want: Vec<String> = (0..events.len()).map(|sequence| sequence.to_string()).collect();
    assert_eq!(events, want, "every event once, in order");
    assert!(events.len() >= 2);
}
