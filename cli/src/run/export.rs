//! `starling run export`: the newest committed model, or an average of it, as a safetensors file.
//!
//! Every chunk and the whole are verified before the file appears; a broken transfer goes on where it
//! stopped. No engine is needed: the coordinator names the tensors. The header is written here rather than by the safetensors crate,
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
use std::{collections::BTreeMap, path::Path, time::Duration};

/// A transfer that broke is tried again after this.
const PAUSE: Duration = Duration::from_secs(1);
/// Tries one after the other that may move nothing.
const TRIES: u32 = 10;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exported {
    run: String,
    round: Option<u64>,
    digest: Digest,
    parameters: usize,
    /// The average that it is; `None`: the model.
    average: Option<String>,
}

impl Exported {
    /// For `--json`.
    pub(crate) fn json(&self, file: &Path) -> serde_json::Value {
        json!({
            "run": self.run, "round": self.round, "digest": self.digest, "parameters": self.parameters,
            "average": self.average, "file": file,
        })
    }

    /// For people.
    pub(crate) fn text(&self, file: &Path) -> String {
        let after = self.round.map_or("initial model".to_owned(), |round| format!("after round {round}"));
        let what = self.average.as_ref().map_or_else(String::new, |name| format!("{name} average, "));
        format!(
            "{}: {what}{} parameters of {}, {after}, digest {}",
            file.display(),
            self.parameters,
            self.run,
            self.digest
        )
    }
}

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The run.
    pub(crate) run: &'a str,
    /// One of its averages instead of the model.
    pub(crate) average: Option<&'a str>,
}

/// Fetches, verifies and writes a run's newest model, or an average of it.
pub(crate) async fn export(
    operator: &mut Operator,
    wanted: Wanted<'_>,
    to: &Path,
    replace: bool,
) -> Result<Exported, Failure> {
    let (header, w) = fetch(operator, wanted).await?;
    let (exported, head) = describe(&header, w.len())?;
    output::write_file(to, replace, &[&head, bytemuck::cast_slice(&w)])?;
    Ok(exported)
}

pub(crate) fn damaged(text: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Data, format!("the model arrived damaged: {text}"))
}

/// What has arrived.
type Arriving = Option<(ExportHeader, Assembler)>;

/// The header and the verified vector.
async fn fetch(operator: &mut Operator, wanted: Wanted<'_>) -> Result<(ExportHeader, Vec<f32>), Failure> {
    let mut arriving: Arriving = None;
    let (mut received, mut fruitless) = (0, 0);
    while let Err(failure) = receive(operator, wanted, &mut arriving).await {
        let now = arriving.as_ref().map_or(0, |(_, assembler)| assembler.received());
        fruitless = if now > received { 0 } else { fruitless + 1 };
        received = now;
        // The first byte tells a wrong address from an interruption.
        if failure.code != Code::Unavailable || arriving.is_none() || fruitless == TRIES {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE).await;
    }
    let (header, assembler) = arriving.ok_or_else(|| damaged("the stream was empty"))?;
    Ok((header, assembler.finish().map_err(damaged)?))
}

/// One try: all that is missing.
async fn receive(
    operator: &mut Operator,
    Wanted { run, average }: Wanted<'_>,
    arriving: &mut Arriving,
) -> Result<(), Failure> {
    let (digest, offset) = arriving
        .as_ref()
        .map_or((Vec::new(), 0), |(_, assembler)| (assembler.announced().0.to_vec(), assembler.received()));
    let average = average.unwrap_or_default().to_owned();
    let request = v1::ExportRequest { run: run.to_owned(), digest, offset, average: average.clone() };
    let mut stream = match operator.client.export_run(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => return Err(operator.run_failure(run, &status).await),
    };
    let mut opened = false;
    loop {
        let next = tokio::time::timeout(limits::STALL, stream.message()).await;
        let message = next.map_err(|_| {
            let text = format!("no byte of the model arrived for {} s", limits::STALL.as_secs());
            Failure::new(Code::Unavailable, text)
        })?;
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(status) => return Err(operator.run_failure(run, &status).await),
        };
        match (message.body, &mut *arriving) {
            (Some(Body::Header(header)), known) if !opened => {
                opened = true;
                if header.average != average {
                    return Err(Failure::new(Code::NotFound, "this coordinator knows no averages of models"));
                }
                let (header, assembler) = open(header)?;
                let same = known.as_ref().is_some_and(|(_, old)| old.announced() == assembler.announced());
                // A newer model was committed meanwhile: it comes from its start.
                if !same {
                    *known = Some((header, assembler));
                }
            }
            (Some(Body::Chunk(chunk)), Some((_, assembler))) if opened => {
                assembler.push(&chunk).map_err(damaged)?;
            }
            _ => return Err(damaged("expected one header, then chunks")),
        }
    }
}

/// Checks that the announced tensors fill the announced vector.
pub(crate) fn open(header: ExportHeader) -> Result<(ExportHeader, Assembler), Failure> {
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
pub(crate) fn describe(header: &ExportHeader, parameters: usize) -> Result<(Exported, Vec<u8>), Failure> {
    let bytes = header.model.as_ref().map(|model| model.digest.as_slice()).unwrap_or_default();
    let digest = Digest::from_bytes(bytes).map_err(damaged)?;
    let mut metadata = BTreeMap::from([
        ("format", "pt".to_owned()),
        ("run", header.run.clone()),
        ("name", header.name.clone()),
        ("digest", digest.to_string()),
    ]);
    let average = Some(header.average.clone()).filter(|name| !name.is_empty());
    metadata.extend(average.clone().map(|name| ("average", name)));
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
    Ok((Exported { run: header.run.clone(), round: header.round, digest, parameters, average }, head))
}

#[cfg(test)]
mod tests;
