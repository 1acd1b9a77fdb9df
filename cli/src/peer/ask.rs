//! Questions to peers: how they stand, and their models.

use crate::{
    exit::{Code, Failure, chain},
    output,
    run::export::{self, Exported},
};
use ::worker::peer::{Lane, Net};
use identity::{Bundle, Tcp};
use proto::{
    digest::Digest,
    limits::{CALL, STALL},
    v1::{self, ExportHeader, export_message::Body, peers_client::PeersClient},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::time::timeout;
use tonic::{Status, transport::Channel};

/// Which peer is asked, and by whom.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Who {
    /// The peer that is asked, as HOST:PORT
    #[arg(long, value_name = "ADDR", env = "STARLING_PEER", default_value = "127.0.0.1:7079")]
    pub(crate) peer: String,
    /// Your key and certificate, from `starling ca init`
    #[arg(long, value_name = "FILE", env = "STARLING_IDENTITY")]
    pub(crate) identity: PathBuf,
}

/// Somebody who may ask peers.
pub(crate) struct Asked(Net);

/// What all reachable peers agree on.
pub(crate) struct Consensus {
    pub(crate) header: ExportHeader,
    pub(crate) model: Vec<f32>,
    pub(crate) peers: Vec<String>,
    /// Σ w.
    pub(crate) mass: f64,
}

impl Asked {
    pub(crate) fn new(who: &Who) -> Result<Self, Failure> {
        let wrong = |why: &dyn std::fmt::Display| {
            Failure::usage(format!("--identity {}: {why}", who.identity.display()))
        };
        let bundle = Bundle::load(&who.identity).map_err(|error| wrong(&error))?;
        let bundle = bundle.ok_or_else(|| wrong(&"no such file; `starling ca init` writes operator.pem"))?;
        Net::new(&bundle, Arc::new(Tcp)).map(Self).map_err(|error| wrong(&error))
    }

    fn client(&self, address: &str, lane: Lane) -> Result<PeersClient<Channel>, Failure> {
        self.0.client(address, lane).map_err(|error| Failure::usage(format!("--peer {address}: {error}")))
    }

    pub(crate) async fn status(&self, address: &str) -> Result<v1::PeerStatusReply, Failure> {
        self.status_of(address, None).await
    }

    /// How the peer of that name stands, or whichever peer is at an address.
    pub(crate) async fn status_of(
        &self,
        address: &str,
        name: Option<&str>,
    ) -> Result<v1::PeerStatusReply, Failure> {
        let mut client = match name {
            None => self.client(address, Lane::Small)?,
            Some(name) => self.0.client_of(name, address, Lane::Small).map_err(Failure::internal)?,
        };
        let reply = timeout(CALL, client.peer_status(v1::PeerStatusRequest {})).await;
        reply
            .map_err(|_| silent(address))?
            .map(tonic::Response::into_inner)
            .map_err(|status| failed(address, &status))
    }

    pub(crate) async fn leave(&self, address: &str) -> Result<(), Failure> {
        let mut client = self.client(address, Lane::Small)?;
        let reply = timeout(CALL, client.leave_run(v1::LeaveRunRequest {})).await;
        reply.map_err(|_| silent(address))?.map(drop).map_err(|status| failed(address, &status))
    }

    /// Gives a peer a list of revoked certificates.
    pub(crate) async fn revoke(&self, address: &str, list: &str) -> Result<(), Failure> {
        let mut client = self.client(address, Lane::Small)?;
        let request = v1::RevokeRequest { revocations: list.to_owned() };
        let reply = timeout(CALL, client.revoke(request)).await;
        reply.map_err(|_| silent(address))?.map(drop).map_err(|status| failed(address, &status))
    }

    /// A peer's model, verified.
    pub(crate) async fn model(&self, address: &str) -> Result<(ExportHeader, Vec<f32>), Failure> {
        let mut client = self.client(address, Lane::Vectors)?;
        let request = v1::ModelRequest { digest: Vec::new(), offset: 0 };
        let reply = timeout(CALL, client.model(request)).await.map_err(|_| silent(address))?;
        let mut stream = reply.map_err(|status| failed(address, &status))?.into_inner();
        let mut arriving = None;
        loop {
            let message = timeout(STALL, stream.message()).await.map_err(|_| silent(address))?;
            match (message.map_err(|status| failed(address, &status))?.and_then(|m| m.body), &mut arriving) {
                (Some(Body::Header(header)), None) => arriving = Some(export::open(header)?),
                (Some(Body::Chunk(chunk)), Some((_, assembler))) => {
                    assembler.push(&chunk).map_err(export::damaged)?;
                }
                (None, Some(_)) => break,
                _ => return Err(export::damaged("expected one header, then chunks")),
            }
        }
        let (header, assembler) = arriving.ok_or_else(|| export::damaged("the stream was empty"))?;
        Ok((header, assembler.finish().map_err(export::damaged)?))
    }

    /// `Σ w z / Σ w` over the live peers that a peer can reach, itself included.
    pub(crate) async fn consensus(&self, address: &str) -> Result<Consensus, Failure> {
        let first = self.status(address).await?;
        let members =
            first.members.iter().filter(|peer| peer.live && peer.reachable && !peer.address.is_empty());
        let (mut sum, mut mass, mut peers, mut header) = (Vec::new(), 0.0, Vec::new(), None);
        for peer in members {
            let w = self.status(&peer.address).await?.w;
            let (theirs, model) = self.model(&peer.address).await?;
            sum.resize(model.len(), 0.0_f64);
            if sum.len() != model.len() {
                return Err(export::damaged(format!("{} has another model", peer.name)));
            }
            sum.iter_mut().zip(&model).for_each(|(sum, z)| *sum += w * f64::from(*z));
            mass += w;
            peers.push(peer.name.clone());
            header.get_or_insert(theirs);
        }
        let mut header = header.ok_or_else(|| Failure::new(Code::Failed, "no peer has a model yet"))?;
        let model: Vec<f32> = sum.iter().map(|sum| (sum / mass) as f32).collect();
        "consensus".clone_into(&mut header.name);
        if let Some(described) = &mut header.model {
            described.digest = Digest::of_vector(&model).0.to_vec();
        }
        Ok(Consensus { header, model, peers, mass })
    }
}

/// Writes a model as safetensors.
pub(crate) fn write(
    header: &ExportHeader,
    model: &[f32],
    to: &Path,
    replace: bool,
) -> Result<Exported, Failure> {
    let (exported, head) = export::describe(header, model.len())?;
    output::write_file(to, replace, &[&head, bytemuck::cast_slice(model)])?;
    Ok(exported)
}

fn silent(address: &str) -> Failure {
    Failure::new(Code::Unavailable, format!("the peer at {address} does not answer"))
}

fn failed(address: &str, status: &Status) -> Failure {
    use tonic::Code as Grpc;
    let text = status.message();
    match status.code() {
        Grpc::PermissionDenied | Grpc::Unauthenticated => Failure::new(Code::Denied, text),
        Grpc::FailedPrecondition => Failure::new(Code::Failed, format!("{address}: {text}")),
        Grpc::Unavailable | Grpc::Unknown | Grpc::Cancelled => {
            let why = chain(status);
            let text = format!(
                "no peer answers at {address} ({why}); check that `starling peer` is running there, that host \
                 and port are right (--peer or STARLING_PEER), and that both have certificates of one authority"
            );
            Failure::new(Code::Unavailable, text)
        }
        code => Failure::internal(format!("{address}: {code}: {text}")),
    }
}
