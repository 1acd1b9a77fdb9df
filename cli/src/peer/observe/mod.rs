//! `starling peer observe`: all peers of a run at a glance, for somebody who takes no part in it.
//!
//! An observer asks peers how they stand, as `peer status` does, and asks those that they tell of. It is no
//! member and sends no rumour, so that nobody counts it, waits for it or mixes with it; its certificate lets
//! it ask this one question.

mod serve;
mod sight;

use super::ask::{Asked, Who};
use crate::{
    exit::{Code, Failure},
    life, output,
};
use futures::{StreamExt, stream};
use page::peers::Peers;
use sight::{Place, Sight};
use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, time::timeout};

/// Peers that are asked at the same time.
const AT_ONCE: usize = 32;
/// A peer answers within this time or is silent at this look.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Observe {
    /// Some peers to ask for all others, as HOST:PORT; one that can be reached is enough
    #[arg(
        long,
        value_name = "ADDR",
        env = "STARLING_PEER",
        default_value = "127.0.0.1:7079",
        value_delimiter = ','
    )]
    peer: Vec<String>,
    /// Your key and certificate, from `starling ca observer` or `starling ca init`
    #[arg(long, value_name = "FILE", env = "STARLING_IDENTITY")]
    identity: PathBuf,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    every: f64,
    /// Looks once and ends; fails if no peer answers
    #[arg(long)]
    once: bool,
    /// Serves the same as a page for browsers, and metrics for Prometheus, on this address of this machine
    #[arg(long, value_name = "ADDR", conflicts_with = "once")]
    page: Option<SocketAddr>,
    /// With --page: on an address that others can reach, too, without encryption
    #[arg(long, requires = "page")]
    insecure: bool,
    /// Prints JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("expected 0.1 to 3600 seconds".into()) }
}

/// Observes until every peer is done, or until it is interrupted.
pub(super) async fn main(args: &Observe) -> Result<(), Failure> {
    let who = Who { peer: String::new(), identity: args.identity.clone() };
    let asked = Asked::new(&who)?;
    let (told, seen) = watch::channel(Peers::default());
    let _serving = match args.page {
        Some(address) => Some(serve::start(address, args.insecure, seen).await?),
        None => None,
    };
    let mut sight = Sight::new(&args.peer);
    let mut screen = Screen::new(args.json);
    life::interruptible(async {
        loop {
            let why = look(&asked, &mut sight).await?;
            let peers = sight.peers();
            screen.show(&peers)?;
            if args.once {
                let answered = peers.run.is_some();
                return if answered { Ok(()) } else { Err(why.unwrap_or_else(nobody)) };
            }
            let finished = peers.finished();
            let _ = told.send(peers);
            // A page stays for whoever reads it.
            if finished && args.page.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs_f64(args.every)).await;
        }
    })
    .await
}

fn nobody() -> Failure {
    Failure::new(Code::Unavailable, "no peer that takes part in a run answers")
}

/// Asks everybody once; gives why one of the first addresses did not answer.
///
/// # Errors
/// If this observer may not ask, or an address is none.
async fn look(asked: &Asked, sight: &mut Sight) -> Result<Option<Failure>, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let first = sight.begin(now);
    let why = ask(asked, sight, first).await?;
    let members = sight.members();
    ask(asked, sight, members).await?;
    Ok(why)
}

async fn ask(asked: &Asked, sight: &mut Sight, places: Vec<Place>) -> Result<Option<Failure>, Failure> {
    let mut why = None;
    let mut answers = stream::iter(places).map(|place| question(asked, place)).buffer_unordered(AT_ONCE);
    while let Some((place, answer)) = answers.next().await {
        match answer {
            Ok(reply) => sight.heard(&place, &reply),
            Err(failure) if place.name.is_some() => sight.silent(&place, &failure.message),
            Err(failure) if matches!(failure.code, Code::Denied | Code::Usage) => return Err(failure),
            Err(failure) => why = Some(failure),
        }
    }
    Ok(why)
}

async fn question(asked: &Asked, place: Place) -> (Place, Result<proto::v1::PeerStatusReply, Failure>) {
    let answer = timeout(PATIENCE, asked.status_of(&place.address, place.name.as_deref())).await;
    let late =
        || Err(Failure::new(Code::Unavailable, format!("the peer at {} does not answer", place.address)));
    let answer = answer.unwrap_or_else(|_| late());
    (place, answer)
}

/// Where looks are shown.
struct Screen {
    json: bool,
    /// Each table takes the place of the last one.
    live: bool,
}

impl Screen {
    fn new(json: bool) -> Self {
        Self { json, live: !json && std::io::stdout().is_terminal() }
    }

    fn show(&mut self, peers: &Peers) -> Result<(), Failure> {
        if self.json {
            return output::line(serde_json::to_string(peers).map_err(Failure::internal)?);
        }
        if self.live {
            // Home, and nothing of before.
            let _ = write!(std::io::stdout(), "\x1b[H\x1b[J");
        }
        output::line(format!("{}\n", peers.text()))
    }
}
