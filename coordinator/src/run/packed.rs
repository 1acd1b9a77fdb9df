//! What differs in a run that compresses its updates: the payload is words that are no numbers yet. They
//! are received, checked by length, checksum and digest as ever, then unpacked on a blocking thread; what
//! comes out is vetted as if it had arrived so.

use super::{
    Shared,
    aggregate::{Refusal, Survey},
};
use algorithms::compress::CompressError;
use proto::v1::{ElementType, RejectReason};
use std::sync::Arc;

impl Shared {
    /// What the payload's elements are.
    pub(crate) fn element(&self) -> ElementType {
        if self.packing.is_some() { ElementType::Packed } else { ElementType::F32 }
    }

    /// A place for the payload of an upload.
    pub(super) fn receptacle(&self) -> (Vec<f32>, Survey) {
        match self.packing {
            // Words are not surveyed.
            Some(_) => (vec![0.0; self.words()], Survey::new(std::iter::empty())),
            None => (self.buffers.take(self.words()), self.survey()),
        }
    }

    fn survey(&self) -> Survey {
        Survey::new(self.upload.iter().map(|(_, length)| *length))
    }

    /// The vectors of an upload, surveyed, from a payload that is whole.
    pub(crate) async fn read(
        self: &Arc<Self>,
        payload: Vec<f32>,
        survey: Survey,
    ) -> Result<(Vec<f32>, Survey), Refusal> {
        if self.packing.is_none() {
            return Ok((payload, survey));
        }
        let shared = Arc::clone(self);
        let unpacked = tokio::task::spawn_blocking(move || {
            let packing = shared.packing.as_ref().expect("was just there");
            let values = packing.unpack(&payload)?;
            let mut survey = shared.survey();
            survey.extend(&values);
            Ok::<_, CompressError>((values, survey))
        });
        let unpacked = unpacked.await.map_err(|error| error.to_string());
        let unpacked = unpacked.and_then(|done| done.map_err(|error| error.to_string()));
        unpacked.map_err(|detail| (RejectReason::Compression, detail))
    }
}
