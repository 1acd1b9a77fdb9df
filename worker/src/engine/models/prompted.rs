//! A visual prompt: a trainable frame that is added to every image before another model sees it (Li et al.,
//! "Visual Prompt Based Personalized Federated Learning", 2023, arXiv:2303.08678).
//!
//! ```python
//! class PadPrompt(nn.Module):
//!     def __init__(self, channels, height, width, p):
//!         super().__init__()
//!         self.up = nn.Parameter(torch.randn(1, channels, p, width))
//!         self.down = nn.Parameter(torch.randn(1, channels, p, width))
//!         self.left = nn.Parameter(torch.randn(1, channels, height - 2 * p, p))
//!         self.right = nn.Parameter(torch.randn(1, channels, height - 2 * p, p))
//!     def forward(self, x):
//!         inner = torch.zeros(1, x.shape[1], x.shape[2] - 2 * p, x.shape[3] - 2 * p)
//!         prompt = torch.cat([self.left, inner, self.right], dim=3)
//!         return x + torch.cat([self.up, prompt, self.down], dim=2)
//! ```
//!
//! 2p·c·(H + W − 2p) scalars: 720 for p = 2 and 32×32 in colour. Inputs are as the data set normalises them.

use super::{Built, Image, unfit};
use crate::data::DataInfo;
use crate::engine::buffer::Buffer;
use crate::engine::layout::{Init, Layout, Params, Slot};
use crate::engine::tape::{Operation, apply};
use crate::engine::tensor::{Result, Tensor};

/// The frame's four parts and where they lie.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Prompt {
    parts: [Slot; 4],
    frame: Frame,
}

/// Where a frame lies on images of `height × width × channels`, channels last.
#[derive(Debug, Clone, Copy)]
struct Frame {
    height: usize,
    width: usize,
    channels: usize,
    padding: usize,
}

/// Registers the prompt's tensors beside those of the model that is built, and gives it the prompt.
pub(super) fn wrap(built: Built, (padding, info): (usize, &DataInfo), layout: &mut Layout) -> Built {
    let mut network = built?;
    let image = Image::new("prompted", info)?;
    let Image { channels, height, width, .. } = image;
    if 2 * padding >= height || 2 * padding >= width {
        return Err(image.too_small("prompted", 2 * padding + 1));
    }
    let mut part = |name: &str, rows: usize, columns: usize| {
        layout.tensor(format!("prompt.{name}"), &[1, channels, rows, columns], Init::Normal(1.0))
    };
    let rows = height - 2 * padding;
    let parts = [
        part("up", padding, width),
        part("down", padding, width),
        part("left", rows, padding),
        part("right", rows, padding),
    ];
    let frame = Frame { height, width, channels, padding };
    if network.prompt(Prompt { parts, frame }) {
        return Ok(network);
    }
    Err(unfit("prompted", "its base takes no images; expected `lenet`, `cnn` or `resnet18-gn`"))
}

impl Prompt {
    /// Images with the frame on them.
    pub(super) fn add(&self, params: &Params, images: &Tensor) -> Result<Tensor> {
        let [up, down, left, right] = self.parts.map(|slot| params.get(slot));
        apply(self.frame, &[images, up, down, left, right])
    }
}

impl Frame {
    /// Calls `visit(part, index in the part, index in the image)` for each scalar of the frame. The parts' tensors
    /// are as the kernels have them: [rows, columns, channels, 1].
    fn visit(&self, mut visit: impl FnMut(usize, usize, usize)) {
        let Self { height, width, channels, padding } = *self;
        let inner = height - 2 * padding;
        let corners = [
            (0, 0, padding, width),
            (height - padding, 0, padding, width),
            (padding, 0, inner, padding),
            (padding, width - padding, inner, padding),
        ];
        for (part, (top, left, rows, columns)) in corners.into_iter().enumerate() {
            for row in 0..rows {
                for at in 0..columns * channels {
                    let image = ((top + row) * width + left) * channels + at;
                    visit(part, row * columns * channels + at, image);
                }
            }
        }
    }

    fn size(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl Operation for Frame {
    fn forward(&mut self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (images, parts) = (inputs[0], &inputs[1..]);
        let mut out = Buffer::copy(images.values());
        for image in out.chunks_exact_mut(self.size()) {
            self.visit(|part, at, place| image[place] += parts[part].values()[at]);
        }
        Ok(Tensor::new(out, images.shape()))
    }

    fn backward(&self, inputs: &[Tensor], _: &Tensor, gradient: Tensor) -> Result<Vec<Option<Tensor>>> {
        let mut sums: Vec<Vec<f32>> = inputs[1..].iter().map(|part| vec![0.0; part.len()]).collect();
        for image in gradient.values().chunks_exact(self.size()) {
            self.visit(|part, at, place| sums[part][at] += image[place]);
        }
        let parts = sums.into_iter().zip(&inputs[1..]);
        let parts = parts.map(|(sum, part)| part.tracked().then(|| Tensor::new(sum, part.shape())));
        let mut gradients: Vec<Option<Tensor>> = parts.collect();
        gradients.insert(0, inputs[0].tracked().then_some(gradient));
        Ok(gradients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{Batch, Inputs},
        engine::Model,
    };
    use proto::spec::ModelSpec;

    const INFO: DataInfo = DataInfo::Images { channels: 3, height: 32, width: 32, classes: 10 };

    fn models() -> (Model, Model) {
        let base = ModelSpec::Cnn {};
        let prompted = ModelSpec::Prompted { padding: 2, base: Box::new(base.clone()) };
        (Model::new(&base, &INFO).unwrap(), Model::new(&prompted, &INFO).unwrap())
    }

    fn batch() -> Batch {
        let inputs = (0..2 * 3 * 32 * 32).map(|at| (at % 13) as f32 * 0.1 - 0.6).collect();
        Batch { size: 2, inputs: Inputs::Dense(inputs), labels: vec![3, 7] }
    }

    #[test]
    fn a_prompt_of_nothing_changes_nothing() {
        let (base, prompted) = models();
        let (w, mut with) = (base.initial(4), prompted.initial(4));
        assert_eq!(prompted.parameters() - base.parameters(), 720, "2p·c·(2S − 2p) of the paper's code");
        // The prompt's tensors come last.
        assert_eq!(with[..w.len()], w, "the model begins as without");
        let spread = with[w.len()..].iter().map(|x| x * x).sum::<f32>() / 720.0;
        assert!((0.8..1.2).contains(&spread), "N(0, 1): {spread}");
        assert_ne!(prompted.logits(&with, &batch()).unwrap(), base.logits(&w, &batch()).unwrap());
        with[w.len()..].fill(0.0);
        assert_eq!(prompted.logits(&with, &batch()).unwrap(), base.logits(&w, &batch()).unwrap());
    }

    #[test]
    fn only_the_frame_is_added() {
        let frame = Frame { height: 5, width: 4, channels: 2, padding: 1 };
        let (mut seen, mut lengths) = (vec![0; frame.size()], [0; 4]);
        frame.visit(|part, at, place| {
            seen[place] += 1;
            lengths[part] = lengths[part].max(at + 1);
        });
        assert_eq!(lengths, [8, 8, 6, 6]);
        for (place, count) in seen.into_iter().enumerate() {
            let (row, column) = (place / 8, place / 2 % 4);
            let inside = (1..4).contains(&row) && (1..3).contains(&column);
            assert_eq!(count, usize::from(!inside), "{row} {column}");
        }
    }

    #[test]
    fn what_cannot_take_a_prompt_says_so() {
        let fit = |padding, base: ModelSpec, info: &DataInfo| {
            Model::new(&ModelSpec::Prompted { padding, base: Box::new(base) }, info).unwrap_err().to_string()
        };
        assert!(fit(2, ModelSpec::Linear {}, &INFO).contains("takes no images"));
        assert!(fit(16, ModelSpec::Cnn {}, &INFO).contains("at least 33"));
        let text = DataInfo::Text { vocabulary: 9, sequence: 8 };
        assert!(fit(2, ModelSpec::CharLstm { embedding: 2, hidden: 2, layers: 1 }, &text).contains("text"));
    }
}
