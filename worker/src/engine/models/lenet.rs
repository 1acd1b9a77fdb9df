//! LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, about 62,000 parameters.
//!
//! Images with a side below 32 are padded by two pixels, as the 28×28 digits were.
//!
//! ```python
//! class LeNet(nn.Module):
//!     def __init__(self, channels, height, width, classes):
//!         super().__init__()
//!         pad = 2 if min(height, width) < 32 else 0
//!         h, w = (((s + 2 * pad - 4) // 2 - 4) // 2 for s in (height, width))
//!         self.conv1 = nn.Conv2d(channels, 6, 5, padding=pad)
//!         self.conv2 = nn.Conv2d(6, 16, 5)
//!         self.fc1 = nn.Linear(16 * h * w, 120)
//!         self.fc2 = nn.Linear(120, 84)
//!         self.fc3 = nn.Linear(84, classes)
//!     def forward(self, x):
//!         x = F.max_pool2d(F.relu(self.conv1(x)), 2)
//!         x = F.max_pool2d(F.relu(self.conv2(x)), 2)
//!         x = F.relu(self.fc1(x.flatten(1)))
//!         x = F.relu(self.fc2(x))
//!         return self.fc3(x)
//! ```

use super::{Built, Image, Network, prompted::Prompt};
use crate::data::DataInfo;
use crate::engine::layers::{Conv, Linear};
use crate::engine::layout::{Layout, Params};
use crate::engine::ops::patches::Window;
use crate::engine::ops::pool::flatten;
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};

const HALVE: Window = Window { side: 2, stride: 2, padding: 0 };
/// Below this side length images are padded.
const UNPADDED: usize = 32;

#[derive(Debug)]
struct LeNet {
    image: Image,
    conv: [Conv; 2],
    fc: [Linear; 3],
}

pub(super) fn build(info: &DataInfo, layout: &mut Layout) -> Built {
    let image = Image::new("lenet", info)?;
    let padding = if image.height.min(image.width) < UNPADDED { 2 } else { 0 };
    let (first, second) = (Window { side: 5, stride: 1, padding }, Window { side: 5, stride: 1, padding: 0 });
    let side = |extent: usize| {
        let half = HALVE.places(first.places(extent)?)?;
        HALVE.places(second.places(half)?)
    };
    let (Some(height), Some(width)) = (side(image.height), side(image.width)) else {
        return Err(image.too_small("lenet", 12));
    };
    Ok(Box::new(LeNet {
        image,
        conv: [
            Conv::new(layout, "conv1", (image.channels, 6), first),
            Conv::new(layout, "conv2", (6, 16), second),
        ],
        fc: [
            Linear::new(layout, "fc1", 16 * height * width, 120),
            Linear::new(layout, "fc2", 120, 84),
            Linear::new(layout, "fc3", 84, image.classes),
        ],
    }))
}

impl Network for LeNet {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        let mut x = self.image.load(params, shard)?;
        for conv in &self.conv {
            x = conv.forward_relu_pooled(params, &x, HALVE)?;
        }
        let [fc1, fc2, fc3] = &self.fc;
        let x = fc1.forward_relu(params, &flatten(&x)?)?;
        fc3.forward(params, &fc2.forward_relu(params, &x)?)
    }

    fn prompt(&mut self, prompt: Prompt) -> bool {
        self.image.prompt = Some(prompt);
        true
    }
}
