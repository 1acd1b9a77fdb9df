//! Workers that mean harm: what they send in the place of an upload. Their sessions are proper ones,
//! and what they know is what an honest worker knows.

use super::{
    Federation,
    network::{Parcel, Upload},
};
use crate::Vice;
use proto::digest::Digest;
use worker::session::JobId;

/// Verdicts on what is sent beside the job's upload concern no job.
const NO_JOB: JobId = JobId(u64::MAX);
/// Copies in a flood.
const FLOOD: u32 = 20;

impl Federation {
    /// `offers` counts how often the job has offered.
    pub(super) fn misbehave(
        &mut self,
        worker: usize,
        (connection, id): (u64, JobId),
        (vice, offers): (Vice, u32),
        mut upload: Upload,
    ) {
        match vice {
            Vice::Mute => return,
            Vice::Flood => {
                for _ in 1..FLOOD {
                    self.send(connection, &Parcel::Upload(NO_JOB, Box::new(upload.clone())));
                }
            }
            Vice::Replay => {
                // Of earlier rounds only: of two honest uploads for one round, which counts is no harm.
                let round = upload.header.round;
                let mut sent = self.nodes[worker].sent.clone();
                sent.retain(|old| old.header.round < round);
                for old in sent {
                    self.send(connection, &Parcel::Upload(NO_JOB, Box::new(old)));
                }
                self.nodes[worker].remember(&upload);
            }
            Vice::Rounds if offers % 2 == 1 => upload.header.round += 1,
            Vice::Rounds => upload.header.round = upload.header.round.wrapping_sub(1),
            vice => spoil(vice, &mut upload),
        }
        self.send(connection, &Parcel::Upload(id, Box::new(upload)));
    }
}

/// Makes an upload that must be rejected.
fn spoil(vice: Vice, upload: &mut Upload) {
    let Upload { header, values } = upload;
    match vice {
        Vice::NotANumber => values[0] = f32::NAN,
        Vice::Infinite => values[0] = f32::INFINITY,
        Vice::Huge => values[0] = 1e30,
        Vice::Shape => {
            values.push(0.0);
            header.vectors[0].length += 1;
        }
        Vice::Examples => header.examples = u64::MAX,
        Vice::LearningRate => header.lr *= 2.0,
        _ => {}
    }
    let payload: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    header.digest = Digest::of(&payload).0.to_vec();
    if vice == Vice::Digest {
        header.digest[0] ^= 1;
    }
}
