//! ResNet-18 (He et al. 2016) with group norm of two groups instead of batch norm; torchvision's names.
//!
//! Take `torchvision.models.resnet18(num_classes=classes, norm_layer=lambda c: nn.GroupNorm(2, c))`;
//! that is the ImageNet stem (11,181,642 parameters for 10 classes). For the CIFAR stem (FedSLR,
//! 11,173,952 parameters for 10 classes) replace
//!
//! ```python
//! net.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
//! net.maxpool = nn.Identity()
//! net.fc = nn.Linear(512, classes, bias=False)
//! ```

use super::{Built, Image, Network, prompted::Prompt};
use crate::data::DataInfo;
use crate::engine::layers::{Conv, Linear, Norm};
use crate::engine::layout::{Layout, Params};
use crate::engine::ops::activation::sum;
use crate::engine::ops::patches::Window;
use crate::engine::ops::pool::{global_mean, max_pool};
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};
use proto::spec::Stem;

/// Groups of each normalisation.
const GROUPS: usize = 2;
/// Filters of the four stages, two blocks each.
const STAGES: [usize; 4] = [64, 128, 256, 512];
const POOL: Window = Window { side: 3, stride: 2, padding: 1 };

#[derive(Debug)]
struct Block {
    conv: [Conv; 2],
    norm: [Norm; 2],
    downsample: Option<(Conv, Norm)>,
}

#[derive(Debug)]
struct ResNet {
    image: Image,
    stem: Stem,
    conv1: Conv,
    bn1: Norm,
    blocks: Vec<Block>,
    fc: Linear,
}

fn window(side: usize, stride: usize) -> Window {
    Window { side, stride, padding: side / 2 }
}

impl Block {
    fn new(layout: &mut Layout, name: &str, (inputs, outputs): (usize, usize), stride: usize) -> Self {
        let downsample = (stride != 1 || inputs != outputs).then(|| {
            (
                Conv::without_bias(
                    layout,
                    &format!("{name}.downsample.0"),
                    (inputs, outputs),
                    window(1, stride),
                ),
                Norm::new(layout, &format!("{name}.downsample.1"), outputs),
            )
        });
        Self {
            conv: [
                Conv::without_bias(layout, &format!("{name}.conv1"), (inputs, outputs), window(3, stride)),
                Conv::without_bias(layout, &format!("{name}.conv2"), (outputs, outputs), window(3, 1)),
            ],
            norm: [
                Norm::new(layout, &format!("{name}.bn1"), outputs),
                Norm::new(layout, &format!("{name}.bn2"), outputs),
            ],
            downsample,
        }
    }

    fn forward(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        let [conv1, conv2] = &self.conv;
        let [bn1, bn2] = &self.norm;
        let y = bn1.group(p, &conv1.forward(p, x)?, GROUPS, true)?;
        let y = bn2.group(p, &conv2.forward(p, &y)?, GROUPS, false)?;
        match &self.downsample {
            Some((conv, bn)) => sum(&y, &bn.group(p, &conv.forward(p, x)?, GROUPS, false)?, true),
            None => sum(&y, x, true),
        }
    }
}

/// Any image works: with padding, no window ever falls outside.
pub(super) fn build(stem: Stem, info: &DataInfo, layout: &mut Layout) -> Built {
    let image = Image::new("resnet18-gn", info)?;
    let first = match stem {
        Stem::Cifar => window(3, 1),
        Stem::Imagenet => window(7, 2),
    };
    let conv1 = Conv::without_bias(layout, "conv1", (image.channels, STAGES[0]), first);
    let bn1 = Norm::new(layout, "bn1", STAGES[0]);
    let mut blocks = Vec::new();
    let mut inputs = STAGES[0];
    for (stage, outputs) in STAGES.into_iter().enumerate() {
        let stride = if stage == 0 { 1 } else { 2 };
        blocks.push(Block::new(layout, &format!("layer{}.0", stage + 1), (inputs, outputs), stride));
        blocks.push(Block::new(layout, &format!("layer{}.1", stage + 1), (outputs, outputs), 1));
        inputs = outputs;
    }
    let fc = match stem {
        Stem::Cifar => Linear::without_bias(layout, "fc", inputs, image.classes),
        Stem::Imagenet => Linear::new(layout, "fc", inputs, image.classes),
    };
    Ok(Box::new(ResNet { image, stem, conv1, bn1, blocks, fc }))
}

impl Network for ResNet {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        let mut x = self.conv1.forward(params, &self.image.load(params, shard)?)?;
        x = self.bn1.group(params, &x, GROUPS, true)?;
        if self.stem == Stem::Imagenet {
            x = max_pool(&x, POOL)?;
        }
        for block in &self.blocks {
            x = block.forward(params, &x)?;
        }
        self.fc.forward(params, &global_mean(&x)?)
    }

    fn prompt(&mut self, prompt: Prompt) -> bool {
        self.image.prompt = Some(prompt);
        true
    }
}
