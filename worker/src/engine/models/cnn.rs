//! Two 5×5 convolutions (32 and 64 filters), each halved by max pooling, and a hidden layer of 512
//! (McMahan et al. 2017): 1,663,370 parameters on 28×28 digits, which takes "same" padding.
//!
//! ```python
//! class Cnn(nn.Module):
//!     def __init__(self, channels, height, width, classes):
//!         super().__init__()
//!         self.conv1 = nn.Conv2d(channels, 32, 5, padding=2)
//!         self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
//!         self.fc1 = nn.Linear(64 * (height // 4) * (width // 4), 512)
//!         self.fc2 = nn.Linear(512, classes)
//!     def forward(self, x):
//!         x = F.max_pool2d(F.relu(self.conv1(x)), 2)
//!         x = F.max_pool2d(F.relu(self.conv2(x)), 2)
//!         return self.fc2(F.relu(self.fc1(x.flatten(1))))
//! ```

use super::{Built, Image, Network, prompted::Prompt};
use crate::data::DataInfo;
use crate::engine::layers::{Conv, Linear};
use crate::engine::layout::{Layout, Params};
use crate::engine::ops::patches::Window;
use crate::engine::ops::pool::flatten;
use crate::engine::shards::Shard;
use crate::engine::tensor::{Result, Tensor};

const SAME: Window = Window { side: 5, stride: 1, padding: 2 };
const HALVE: Window = Window { side: 2, stride: 2, padding: 0 };

#[derive(Debug)]
struct Cnn {
    image: Image,
    conv: [Conv; 2],
    fc: [Linear; 2],
}

pub(super) fn build(info: &DataInfo, layout: &mut Layout) -> Built {
    let image = Image::new("cnn", info)?;
    let (height, width) = (image.height / 4, image.width / 4);
    if height == 0 || width == 0 {
        return Err(image.too_small("cnn", 4));
    }
    Ok(Box::new(Cnn {
        image,
        conv: [
            Conv::new(layout, "conv1", (image.channels, 32), SAME),
            Conv::new(layout, "conv2", (32, 64), SAME),
        ],
        fc: [
            Linear::new(layout, "fc1", 64 * height * width, 512),
            Linear::new(layout, "fc2", 512, image.classes),
        ],
    }))
}

impl Network for Cnn {
    fn forward(&self, params: &Params, shard: &Shard<'_>) -> Result<Tensor> {
        let mut x = self.image.load(params, shard)?;
        for conv in &self.conv {
            x = conv.forward_relu_pooled(params, &x, HALVE)?;
        }
        let [fc1, fc2] = &self.fc;
        fc2.forward(params, &fc1.forward_relu(params, &flatten(&x)?)?)
    }

    fn prompt(&mut self, prompt: Prompt) -> bool {
        self.image.prompt = Some(prompt);
        true
    }
}
