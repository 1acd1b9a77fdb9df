//! `starling run export`: the newest committed model as a safetensors file.
//!
//! Every chunk and the whole are verified before the file appears. No engine is needed: the
//! coordinator names the tensors. The header is written here rather than by the safetensors crate,
//! which takes its metadata as a hash map and would give equal models different bytes.

use crate::{
    client::Operator,
    exit::{Code, Failure},
    output,
};
use proto::{
    chunk::Assembler,
    digest::Digest,
    limits,
    v1::{self, ExportHeader, export_message::Body},
};
use serde_json::json;
use std::{collections::BTreeMap, path::Path};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exported {
    run: String,
    round: Option<u64>,
    digest: Digest,
    parameters: usize,
}

impl Exported {
    /// For `--json`.
    pub(crate) fn json(&self, file: &Path) -> serde_json::Value {
        json!({
            "run": self.run, "round": self.round, "digest": self.digest, "parameters": self.parameters,
            "file": file,
        })
    }

    /// For people.
    pub(crate) fn text(&self, file: &Path) -> String {
        let after = self.round.map_or("initial model".to_owned(), |round| format!("after round {round}"));
        format!(
            "{}: {} parameters of {}, {after}, digest {}",
            file.display(),
            self.parameters,
            self.run,
            self.digest
        )
    }
}

/// Fetches, verifies and writes a run's newest model.
pub(crate) async fn export(
    operator: &mut Operator,
    run: &str,
    to: &Path,
    replace: bool,
) -> Result<Exported, Failure> {
    let (header, w) = fetch(operator, run).await?;
    let (exported, head) = describe(&header, w.len())?;
    output::write_file(to, replace, &[&head, bytemuck::cast_slice(&w)])?;
    Ok(exported)
}

fn damaged(text: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Data, format!("the model arrived damaged: {text}"))
}

/// The header and the verified vector.
async fn fetch(operator: &mut Operator, run: &str) -> Result<(ExportHeader, Vec<f32>), Failure> {
    let reply = operator.client.export_run(v1::RunRequest { run: run.to_owned() }).await;
    let mut stream = match reply {
        Ok(reply) => reply.into_inner(),
        Err(status) => return Err(operator.run_failure(run, &status).await),
    };
    let mut arriving: Option<(ExportHeader, Assembler)> = None;
    loop {
        let next = tokio::time::timeout(limits::STALL, stream.message()).await;
        let message = next.map_err(|_| {
            let text = format!("no byte of the model arrived for {} s", limits::STALL.as_secs());
            Failure::new(Code::Unavailable, text)
        })?;
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => return Err(operator.run_failure(run, &status).await),
        };
        match (message.body, &mut arriving) {
            (Some(Body::Header(header)), None) => arriving = Some(open(header)?),
            (Some(Body::Chunk(chunk)), Some((_, assembler))) => assembler.push(&chunk).map_err(damaged)?,
            _ => return Err(damaged("expected one header, then chunks")),
        }
    }
    let (header, assembler) = arriving.ok_or_else(|| damaged("the stream was empty"))?;
    Ok((header, assembler.finish().map_err(damaged)?))
}

/// Checks that the announced tensors fill the announced vector.
fn open(header: ExportHeader) -> Result<(ExportHeader, Assembler), Failure> {
    let model = header.model.as_ref().ok_or_else(|| damaged("the header names no model"))?;
    let digest = Digest::from_bytes(&model.digest).map_err(damaged)?;
    let scalars = header.tensors.iter().try_fold(0_u64, |sum, tensor| {
        let size = tensor.shape.iter().try_fold(1_u64, |product, &extent| product.checked_mul(extent));
        size.and_then(|size| sum.checked_add(size))
    });
    if scalars != Some(model.length) || model.length > limits::PARAMETERS_MAX {
        let text = format!("{} scalars are announced, the tensors hold {scalars:?}", model.length);
        return Err(damaged(text));
    }
    let length = usize::try_from(model.length).map_err(damaged)?;
    Ok((header, Assembler::new(length, digest)))
}

/// What is exported, and the head of its file (the length of the JSON, then the JSON).
fn describe(header: &ExportHeader, parameters: usize) -> Result<(Exported, Vec<u8>), Failure> {
    let bytes = header.model.as_ref().map(|model| model.digest.as_slice()).unwrap_or_default();
    let digest = Digest::from_bytes(bytes).map_err(damaged)?;
    let mut metadata = BTreeMap::from([
        ("format", "pt".to_owned()),
        ("run", header.run.clone()),
        ("name", header.name.clone()),
        ("digest", digest.to_string()),
    ]);
    metadata.extend(header.round.map(|round| ("round", round.to_string())));
    let mut entries = serde_json::Map::from_iter([("__metadata__".to_owned(), json!(metadata))]);
    let mut start = 0;
    for tensor in &header.tensors {
        let end = start + tensor.shape.iter().product::<u64>() * size_of::<f32>() as u64;
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]});
        if entries.insert(tensor.name.clone(), entry).is_some() {
            return Err(damaged(format!("two tensors are called `{}`", tensor.name)));
        }
        start = end;
    }
    let mut text = serde_json::Value::Object(entries).to_string();
    // The format wants its data aligned to 8 bytes.
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let head = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    Ok((Exported { run: header.run.clone(), round: header.round, digest, parameters }, head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{Tensor, VectorRef};

    fn header(w: &[f32]) -> ExportHeader {
        let digest = Digest::of_vector(w).0.to_vec();
        let tensor = |name: &str, shape: &[u64]| Tensor { name: name.into(), shape: shape.to_vec() };
        ExportHeader {
            run: "a-1".into(),
            name: "a".into(),
            round: Some(7),
            model: Some(VectorRef { name: "w".into(), digest, length: w.len() as u64 }),
            tensors: vec![tensor("fc.bias", &[2]), tensor("fc.weight", &[2, 3])],
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
}
