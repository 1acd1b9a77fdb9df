//! The training side of a node: work for the trainer, what comes back, and the report of a round.

use super::{
    book::Own,
    node::Node,
    work::{self, Job, Measured, Outcome, Trained},
};
use crate::{
    WorkerError,
    trainer::{Train, packing_seed},
};
use gossip::machine::Event;
use proto::{peers, v1};
use std::{collections::BTreeSet, panic::resume_unwind, sync::Arc};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

impl Node {
    /// Gives the trainer what the machine wants, when both are there.
    pub(super) fn work(&mut self) {
        let Some(step) = self.wanted.filter(|_| self.trainer.is_some()) else { return };
        let (round, within) = (step / self.parts.mixing.repeats, step % self.parts.mixing.repeats);
        let spec = Arc::clone(&self.parts.spec);
        if within > 0 {
            // Mixing goes on; nothing is trained.
            self.wanted = None;
            let nothing = vec![0.0; self.parameters()].into();
            let idle = Trained { done: Some(nothing), sketch: Vec::new(), end: None, loss: 0.0 };
            self.send_idle(step, idle);
            return;
        }
        let Some(errand) = self.machine.errand() else { return };
        let Some(mut trainer) = self.trainer.take() else { return };
        self.wanted = None;
        self.hand_out(trainer.as_mut());
        let every = spec.evaluation.every;
        let evaluate = every > 0 && (round % every == 0 || round == spec.rounds);
        let measured = round > 0 && self.trained.is_some();
        let job = Job {
            spec: Arc::clone(&spec),
            local: self.parts.mixing.local,
            life: self.life,
            step,
            errand,
            way: Arc::clone(&self.parts.shared),
            origin: Arc::clone(&self.origin),
            draw: packing_seed(spec.seed, &self.parts.name),
            measure: measured.then_some(evaluate),
            train: (round < spec.rounds).then_some(round),
            last_end: self.last_end.clone(),
            cancel: self.cancel.clone(),
            private: self.parts.private.clone(),
        };
        let (told, pace) = (self.outcomes.0.clone(), self.parts.pace);
        let run = move || {
            let tell = |outcome| drop(told.send(outcome));
            let done = job.run(trainer, tell);
            tell(done);
        };
        if pace.is_zero() {
            self.jobs.spawn_blocking(run);
            return;
        }
        self.jobs.spawn(async move {
            sleep(pace).await;
            if let Err(error) = spawn_blocking(run).await
                && let Ok(panic) = error.try_into_panic()
            {
                resume_unwind(panic);
            }
        });
    }

    /// Memory of the last round, for what this one trains and receives.
    fn hand_out(&mut self, trainer: &mut dyn Train) {
        if let Some(memory) = self.machine.spare() {
            trainer.reuse(memory);
        }
        while self.parts.shared.wants_memory() {
            let Some(memory) = self.machine.spare() else { break };
            self.parts.shared.keep_memory(memory);
        }
    }

    fn send_idle(&mut self, step: u64, idle: Trained) {
        let Some(trainer) = self.trainer.take() else { return };
        let done = Outcome::Done { life: self.life, step, trained: Ok(Some(idle)), trainer };
        drop(self.outcomes.0.send(done));
    }

    pub(super) async fn worked(&mut self, outcome: Outcome) -> Result<(), WorkerError> {
        match outcome {
            Outcome::Measured { life, step, measured } => {
                if life == self.life {
                    self.report(step, measured);
                }
            }
            Outcome::Done { life, step, trained, trainer } => {
                self.trainer = Some(trainer);
                let trained = trained.map_err(|error| WorkerError::Training(error.to_string()))?;
                match trained.filter(|_| life == self.life) {
                    Some(mut trained) => {
                        let done = trained.done.take();
                        if let Some(end) = trained.end.take() {
                            self.last_end = Some(Arc::new(end));
                        }
                        if step % self.parts.mixing.repeats == 0 {
                            self.trained = Some(trained);
                        }
                        if let Some(done) = done {
                            self.drive(Event::Trained { round: step, done }).await?;
                        }
                    }
                    None if self.finished() => tracing::info!(rounds = self.rounds(), "all rounds are done"),
                    None => {}
                }
                self.work();
            }
        }
        Ok(())
    }

    /// The round before `step` is over: tells everybody how this peer stands, and notes it.
    pub(super) fn report(&mut self, step: u64, measured: Measured) {
        let Measured { sketch, correction, digest, scores } = measured;
        let round = (step / self.parts.mixing.repeats).saturating_sub(1);
        let trained = self.trained.take();
        // In a private run a peer learns of others by the vectors on its own edges alone: a sketch would tell all
        // of them more.
        let told = self.parts.private.is_none();
        let bytes = |values: &[f32]| if told { bytemuck::cast_slice(values).to_vec() } else { Vec::new() };
        let report = v1::PeerReport {
            from: Some(peers::member(self.machine.me())),
            round,
            mass: peers::units(self.machine.mass()),
            holding: peers::units(self.machine.holding()),
            account: i64::try_from(self.machine.account().units()).unwrap_or(i64::MAX),
            epoch: self.machine.membership().epoch(),
            model: bytes(&sketch),
            change: trained.as_ref().map(|trained| bytes(&trained.sketch)).unwrap_or_default(),
            correction: correction.map(|correction| bytes(&correction)).unwrap_or_default(),
        };
        let members: BTreeSet<u64> =
            self.machine.membership().live().iter().map(|member| member.id).collect();
        for id in members.iter().filter(|id| **id != self.machine.me().id) {
            self.post.tell(*id, v1::tell_request::Body::Report(report.clone()));
        }
        let before = std::mem::replace(&mut self.bytes, (self.post.sent(), self.received));
        let now = Instant::now();
        let own = Own {
            seconds: now.duration_since(std::mem::replace(&mut self.opened, now)).as_secs_f64(),
            train_loss: trained.map(|trained| trained.loss),
            scores,
            bytes_sent: self.bytes.0 - before.0,
            bytes_received: self.bytes.1 - before.1,
            digest,
            epoch: report.epoch,
            members,
            w: self.machine.mass().value(),
            epsilon: self.parts.private.as_ref().map(|private| work::lock(private).epsilon()),
            at: now,
        };
        self.book.done(round, own);
        self.book.report(&report);
        self.book.settle(now);
        tracing::info!(round, of = self.rounds(), "round done");
    }
}
