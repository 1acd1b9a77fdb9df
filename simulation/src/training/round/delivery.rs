//! An update arrives: vetted as the service vets it, then folded, kept or buffered.

use super::{Drive, Millis, Step};
use crate::training::{client_index, flow::kept, lane::Update};
use algorithms::Vector;
use coordinator::{
    machine::{Decision, Event, Facts},
    vet_local,
};
use proto::v1::{ElementType, UploadHeader, VectorShape};

impl Drive<'_, '_> {
    pub(super) fn deliver(
        &mut self,
        worker: String,
        (round, since): (u64, Millis),
        (update, base): (Update, Option<Vector>),
    ) -> Step {
        let Update { examples, steps, loss, upload, bytes, next } = update;
        let upload = self.server.arriving(&worker, round, upload);
        let lengths = upload.iter().map(|(name, vector)| VectorShape {
            name: name.clone(),
            length: vector.len() as u64,
            element: ElementType::F32.into(),
        });
        let seconds = (self.now - since) as f64 / 1_000.0;
        let header = UploadHeader {
            run: self.server.record.id.clone(),
            round,
            worker: worker.clone(),
            vectors: lengths.collect(),
            digest: Vec::new(),
            examples,
            steps,
            lr: self.server.spec.lr(round),
            train_loss: loss,
            seconds,
        };
        self.server.bytes.1 += bytes;
        let length = self.server.record.length as usize;
        let algorithm = self.server.algorithm;
        let fold_facts = match vet_local(&header, &upload, (&self.server.spec, algorithm, length)) {
            Ok(facts) => facts,
            Err((reason, detail)) => {
                return self.handle(Event::Rejected { worker, round, reason, detail });
            }
        };
        let told = !(self.server.spec.has_local_noise() || self.server.spec.has_shares());
        let facts = Facts { examples, train_loss: Some(loss).filter(|_| told), seconds };
        if let Some(base) = base {
            let kept = kept(&upload, (steps, header.lr));
            if self.machine.offer(&worker, round) == Decision::Accept {
                self.server.buffer.push(upload, base);
            }
            return self.handle(Event::Stored { worker, round, facts, kept });
        }
        // Asked before folding: the machine's verdict is final, so the fold comes first.
        if self.machine.offer(&worker, round) == Decision::Accept {
            match self.server.add_to_sum(&upload, loss) {
                Some(Err((reason, detail))) => {
                    return self.handle(Event::Rejected { worker, round, reason, detail });
                }
                Some(Ok(())) => {}
                None => {
                    let draws = self.machine.draws(&worker);
                    self.server.fold(&worker, &upload, (&fold_facts, draws))?;
                }
            }
            if self.server.spec.has_client_state(algorithm)
                && let Some(client) = client_index(&worker)
            {
                self.server.states().offer(client, round, next)?;
            }
        }
        self.handle(Event::Update { worker, round, facts })
    }
}
