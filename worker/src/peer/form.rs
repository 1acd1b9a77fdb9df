//! What vectors of a run look like on the wire: as they are, or as the words of the run's compressor.

use algorithms::compress::{CompressError, Packing};
use gossip::machine::Payload;
use proto::spec::Mixing;

/// The lengths that a run's vectors may have, and how words become one.
#[derive(Debug)]
pub struct Form {
    /// Of the model, d.
    pub(super) parameters: usize,
    /// Of a payload.
    scalars: usize,
    packing: Option<(Packing, usize)>,
}

impl Form {
    /// For a run and a model of these tensors.
    ///
    /// # Errors
    /// If a key of the compressor is out of its range.
    pub fn new(mixing: &Mixing, tensors: &[Vec<usize>]) -> Result<Self, CompressError> {
        let parameters = tensors.iter().map(|dimensions| dimensions.iter().product::<usize>()).sum();
        let packing = |compressor| {
            let packing = Packing::new((compressor, false), vec![("difference", parameters)], tensors)?;
            let words = packing.wire().iter().map(|(_, words)| *words).sum();
            Ok((packing, words))
        };
        let packing = mixing.compressor.map(packing).transpose()?;
        Ok(Self { parameters, scalars: mixing.config.method.scalars(parameters), packing })
    }

    /// How many words a payload has.
    pub(super) fn length(&self, packed: bool) -> Option<usize> {
        if packed { self.packing.as_ref().map(|(_, words)| *words) } else { Some(self.scalars) }
    }

    /// Compresses a difference, if this run does.
    ///
    /// # Errors
    /// If it has another length than the model.
    pub fn pack(&self, difference: &[f32], seed: u64) -> Result<Payload<f32>, CompressError> {
        let Some((packing, _)) = &self.packing else { return Ok(difference.to_vec().into()) };
        let packed = packing.pack(difference, None, seed)?;
        Ok(Payload::packed(packed.decoded, packed.words.iter().map(|word| word.to_bits()).collect()))
    }

    /// The payload that arrived as these words.
    ///
    /// # Errors
    /// If the compressor did not make them.
    pub(super) fn payload(&self, words: Vec<f32>, packed: bool) -> Result<Payload<f32>, CompressError> {
        match &self.packing {
            Some((packing, _)) if packed => {
                let values = packing.unpack(&words)?;
                Ok(Payload::packed(values, words.iter().map(|word| word.to_bits()).collect()))
            }
            _ => Ok(words.into()),
        }
    }
}

/// The words that travel.
pub(super) fn words(payload: &Payload<f32>) -> &[f32] {
    payload.words().map_or(&**payload, bytemuck::cast_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::spec::RunSpec;

    #[test]
    fn differences_travel_as_words_and_come_back() {
        let run = "name='c'\nmode='decentralised'\nrounds=1\n[model]\nkind='linear'\n[data]\nname='d'\n\
                   [algorithm]\nkind='choco-sgd'\ncompressor={kind='top-k',ratio=0.1}\n[topology]\n\
                   kind='ring'\nnodes=4\n";
        let mixing = RunSpec::from_toml(run).unwrap().mixing().unwrap();
        let form = Form::new(&mixing, &[vec![10, 10], vec![10]]).unwrap();
        let difference: Vec<f32> = (0..110).map(|k| k as f32).collect();
        let payload = form.pack(&difference, 1).unwrap();
        let sent = words(&payload).to_vec();
        assert_eq!((form.length(true), form.length(false)), (Some(sent.len()), Some(110)));
        assert!(sent.len() < 18, "11 values and a map of 110 bits: {}", sent.len());
        assert_eq!(payload.iter().filter(|value| **value != 0.0).count(), 11);
        assert_eq!(form.payload(sent.clone(), true).unwrap(), payload);
        assert!(form.payload(sent[1..].to_vec(), true).is_err());
        assert_eq!(form.payload(difference.clone(), false).unwrap(), difference.into());
    }
}
