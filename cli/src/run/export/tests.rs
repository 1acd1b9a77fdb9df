//! The file that is written, and transfers from a real coordinator over a line that breaks.

use super::*;
use crate::{client::Target, host::Host};
use proto::v1::{Tensor, VectorRef};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

fn header(w: &[f32]) -> ExportHeader {
    let digest = Digest::of_vector(w).0.to_vec();
    let tensor = |name: &str, shape: &[u64]| Tensor { name: name.into(), shape: shape.to_vec() };
    ExportHeader {
        run: "a-1".into(),
        name: "a".into(),
        round: Some(7),
        model: Some(VectorRef { name: "w".into(), digest, length: w.len() as u64 }),
        tensors: vec![tensor("fc.bias", &[2]), tensor("fc.weight", &[2, 3])],
        average: String::new(),
    }
}

#[test]
fn the_file_is_what_the_library_reads() {
    let w: Vec<f32> = (0..8).map(|i| i as f32 - 2.5).collect();
    let (exported, head) = describe(&header(&w), w.len()).unwrap();
    let file = [&head, bytemuck::cast_slice(&w)].concat();
    let read = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(read.len(), 2);
    let weight = read.tensor("fc.weight").unwrap();
    assert_eq!((weight.shape(), weight.dtype()), (&[2_usize, 3][..], safetensors::Dtype::F32));
    assert_eq!(weight.data(), bytemuck::cast_slice::<f32, u8>(&w[2..]));
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    assert_eq!(metadata["round"], "7");
    assert_eq!(metadata["digest"], exported.digest.to_string());
    assert_eq!(describe(&header(&w), w.len()).unwrap().1, head, "equal models, equal bytes");
    assert!(!metadata.contains_key("average"));
    let (average, head) = describe(&ExportHeader { average: "swa".into(), ..header(&w) }, w.len()).unwrap();
    assert_eq!(average.json(Path::new("f"))["average"], "swa");
    assert!(String::from_utf8_lossy(&head).contains("\"average\":\"swa\""));
}

#[test]
fn a_header_that_lies_is_refused() {
    let good = header(&[0.0; 8]);
    open(good.clone()).unwrap();
    let mut long = good.clone();
    long.tensors[0].shape = vec![3];
    let mut overflowing = good.clone();
    overflowing.tensors[0].shape = vec![u64::MAX, 2];
    let mut nameless = good.clone();
    nameless.model = None;
    for lie in [long, overflowing, nameless] {
        assert_eq!(open(lie).unwrap_err().code, Code::Data);
    }
    let mut twice = good;
    twice.tensors[1].name = "fc.bias".into();
    assert!(describe(&twice, 8).unwrap_err().message.contains("fc.bias"));
}

/// Passes bytes on to `target`, and breaks the first connection after `limit` bytes of answers; counts
/// those of later ones.
async fn breaking(target: SocketAddr, limit: usize, later: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut left = Some(limit);
        while let Ok((near, _)) = listener.accept().await {
            let (left, later) = (left.take(), Arc::clone(&later));
            tokio::spawn(async move {
                let (mut ask, mut answer) = near.into_split();
                let (mut from, mut to) = TcpStream::connect(target).await.unwrap().into_split();
                let asking = tokio::spawn(async move { tokio::io::copy(&mut ask, &mut to).await });
                let (mut passed, mut buffer) = (0, vec![0; 64 * 1024]);
                while let Ok(size @ 1..) = from.read(&mut buffer).await {
                    passed += size;
                    if left.is_some_and(|limit| passed > limit)
                        || answer.write_all(&buffer[..size]).await.is_err()
                    {
                        break;
                    }
                    if left.is_none() {
                        later.fetch_add(size as u64, Ordering::Relaxed);
                    }
                }
                asking.abort();
            });
        }
    });
    address
}

fn target(address: impl std::fmt::Display) -> Target {
    Target { coordinator: format!("http://{address}"), identity: None, insecure: false }
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    const LENGTH: u64 = 3_000_000;
    let folder = tempfile::tempdir().unwrap();
    let config =
        ::coordinator::Config { data_dir: folder.path().to_owned(), ..::coordinator::Config::default() };
    let host = Arc::new(Host::new(BTreeMap::new(), BTreeMap::new(), 1));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(::coordinator::serve(config, host, listener, stop.clone().cancelled_owned()));
    let spec = format!(
        "name = \"a\"\nrounds = 1\n[model]\nkind = \"flat\"\nparameters = {LENGTH}\n[data]\nname = \"x\"\n"
    );
    let run = Operator::connect(&target(address)).await.unwrap().submit(spec).await.unwrap();
    let later = Arc::new(AtomicU64::new(0));
    let line = breaking(address, 9_000_000, Arc::clone(&later)).await;
    let mut operator = Operator::connect(&target(line)).await.unwrap();
    let wanted = Wanted { run: &run.id, average: None };
    let (header, w) = fetch(&mut operator, wanted).await.unwrap();
    assert_eq!((w.len() as u64, &header.run), (LENGTH, &run.id));
    let missing = Wanted { run: &header.run, average: Some("ema") };
    let error = fetch(&mut operator, missing).await.unwrap_err();
    assert!(error.message.contains("keeps no average `ema`"), "{error}");
    let rest = later.load(Ordering::Relaxed);
    assert!((2_000_000..8_000_000).contains(&rest), "{rest} of 12,000,000 bytes came after the break");
    stop.cancel();
    serving.await.unwrap().unwrap();
}
