//! Weights as a safetensors file with PyTorch's names and shapes.

use super::{EngineError, Model, TensorSpec};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;

/// Writes `w` as a safetensors file that `load_state_dict` accepts; equal inputs, equal bytes.
///
/// # Errors
/// [`EngineError::Length`] if `w` is not one of this model's vectors.
pub fn save_safetensors(
    model: &Model,
    w: &[f32],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, EngineError> {
    model.check_length("weights", w.len())?;
    // By hand, because the library keeps the metadata in a hash map: their order would differ from
    // run to run.
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut offset = 0;
    for TensorSpec { name, shape } in model.tensors() {
        let end = offset + shape.iter().product::<usize>() * size_of::<f32>();
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] });
        header.insert(name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut bytes = Vec::with_capacity(8 + header.len() + offset);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(w.iter().flat_map(|v| v.to_le_bytes()));
    Ok(bytes)
}

/// Reads what [`save_safetensors`] or PyTorch wrote for this model.
///
/// # Errors
/// [`EngineError::File`] if the file is damaged, or a tensor is missing, superfluous, of another shape
/// or not f32.
pub fn load_safetensors(model: &Model, bytes: &[u8]) -> Result<Vec<f32>, EngineError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| file(&e))?;
    let mut w = Vec::with_capacity(model.parameters());
    for spec in model.tensors() {
        let name = &spec.name;
        let Ok(view) = tensors.tensor(name) else {
            return Err(EngineError::File(format!("tensor {name} is missing")));
        };
        if view.dtype() != Dtype::F32 {
            return Err(EngineError::File(format!("tensor {name} is {:?}, expected F32", view.dtype())));
        }
        if view.shape() != spec.shape {
            return Err(EngineError::File(format!(
                "tensor {name} has shape {:?}, expected {:?}",
                view.shape(),
                spec.shape
            )));
        }
        w.extend(view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)));
    }
    let mut names = tensors.names();
    names.sort_unstable();
    match names.iter().find(|name| !model.tensors().iter().any(|spec| spec.name == ***name)) {
        Some(name) => Err(EngineError::File(format!("tensor {name} is not one of this model"))),
        None => Ok(w),
    }
}

fn file(error: &safetensors::SafeTensorError) -> EngineError {
    EngineError::File(error.to_string())
}
