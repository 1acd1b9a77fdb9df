//! Layers: a few tensors of the layout and the operation that uses them, named as in PyTorch.

use super::layout::{Init, Layout, Params, Slot};
use super::ops::patches::Window;
use super::ops::{conv, linear, norm};
use super::tensor::{Result, Tensor};

/// `nn.Linear`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Slot,
    bias: Option<Slot>,
}

impl Linear {
    /// Registers `{name}.weight` `[outputs, inputs]` and `{name}.bias` `[outputs]`.
    pub(super) fn new(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) -> Self {
        let init = kaiming(inputs);
        let bias = Some(layout.tensor(format!("{name}.bias"), &[outputs], init));
        Self { bias, ..Self::without_bias(layout, name, inputs, outputs) }
    }

    /// `bias=False`.
    pub(super) fn without_bias(layout: &mut Layout, name: &str, inputs: usize, outputs: usize) -> Self {
        let weight = layout.tensor(format!("{name}.weight"), &[outputs, inputs], kaiming(inputs));
        Self { weight, bias: None }
    }

    pub(super) fn forward(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        linear::linear(x, p.get(self.weight), self.bias.map(|b| p.get(b)), false)
    }

    /// Followed by the rectifier.
    pub(super) fn forward_relu(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        linear::linear(x, p.get(self.weight), self.bias.map(|b| p.get(b)), true)
    }
}

/// `nn.Conv2d` with a square window.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Slot,
    bias: Option<Slot>,
    window: Window,
}

impl Conv {
    /// Registers `{name}.weight` `[outputs, inputs, side, side]` and `{name}.bias` `[outputs]`.
    pub(super) fn new(layout: &mut Layout, name: &str, channels: (usize, usize), window: Window) -> Self {
        let (inputs, outputs) = channels;
        let init = kaiming(inputs * window.side * window.side);
        let bias = Some(layout.tensor(format!("{name}.bias"), &[outputs], init));
        Self { bias, ..Self::without_bias(layout, name, channels, window) }
    }

    /// `bias=False`.
    pub(super) fn without_bias(
        layout: &mut Layout,
        name: &str,
        (inputs, outputs): (usize, usize),
        window: Window,
    ) -> Self {
        let shape = [outputs, inputs, window.side, window.side];
        let init = kaiming(inputs * window.side * window.side);
        Self { weight: layout.tensor(format!("{name}.weight"), &shape, init), bias: None, window }
    }

    pub(super) fn forward(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        conv::conv(x, p.get(self.weight), self.bias.map(|b| p.get(b)), self.window, false)
    }

    /// Followed by the rectifier and the maximum of windows.
    pub(super) fn forward_relu_pooled(&self, p: &Params, x: &Tensor, pool: Window) -> Result<Tensor> {
        conv::conv_pooled(x, p.get(self.weight), self.bias.map(|b| p.get(b)), (self.window, pool))
    }
}

/// `nn.GroupNorm` or `nn.LayerNorm`.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Slot,
    bias: Slot,
}

impl Norm {
    /// Registers `{name}.weight` and `{name}.bias`, both `[channels]`.
    pub(super) fn new(layout: &mut Layout, name: &str, channels: usize) -> Self {
        Self {
            weight: layout.tensor(format!("{name}.weight"), &[channels], Init::Constant(1.0)),
            bias: layout.tensor(format!("{name}.bias"), &[channels], Init::Constant(0.0)),
        }
    }

    /// As `nn.LayerNorm`.
    pub(super) fn layer(&self, p: &Params, x: &Tensor) -> Result<Tensor> {
        norm::layer_norm(x, p.get(self.weight), p.get(self.bias))
    }

    /// As `nn.GroupNorm`, followed by the rectifier if asked for.
    pub(super) fn group(&self, p: &Params, x: &Tensor, groups: usize, relu: bool) -> Result<Tensor> {
        norm::group_norm(x, p.get(self.weight), p.get(self.bias), groups, relu)
    }
}

/// PyTorch's default for linear and convolutional layers, weight and bias:
/// `kaiming_uniform_(a=sqrt(5))`, that is ± 1/√fan-in.
fn kaiming(inputs: usize) -> Init {
    Init::Uniform(1.0 / (inputs as f32).sqrt())
}
