//! Weights files: round trip, PyTorch's layout, refusals.

use super::small;
use crate::engine::{Model, load_safetensors, save_safetensors};
use proptest::prelude::*;
use proto::spec::ModelSpec;
use safetensors::SafeTensors;
use std::collections::BTreeMap;

fn notes() -> BTreeMap<String, String> {
    BTreeMap::from([("round".into(), "7".into()), ("run".into(), "digits \"2\"".into())])
}

fn mlp(hidden: usize) -> Model {
    Model::new(&ModelSpec::Mlp { hidden: vec![hidden] }, &super::FEATURES).unwrap()
}

#[test]
fn weights_survive_a_round_trip() {
    for (name, spec, info) in small() {
        let model = Model::new(&spec, &info).unwrap();
        let w = model.initial(9);
        let bytes = save_safetensors(&model, &w, &notes()).unwrap();
        assert_eq!(bytes, save_safetensors(&model, &w, &notes()).unwrap(), "{name}");
        assert_eq!(load_safetensors(&model, &bytes).unwrap(), w, "{name}");
    }
}

#[test]
fn the_file_holds_pytorchs_names_and_the_notes() {
    let model = mlp(4);
    let w = model.initial(0);
    let bytes = save_safetensors(&model, &w, &notes()).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata().clone().unwrap().into_iter().collect::<BTreeMap<_, _>>(), notes());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(names, ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"]);
    let bias = file.tensor("fc1.bias").unwrap();
    assert_eq!(bias.shape(), [4]);
    let values: Vec<u8> = w[..4].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(bias.data(), values);
}

#[test]
fn files_of_other_models_are_refused() {
    let model = mlp(4);
    let file = |m: &Model| save_safetensors(m, &m.initial(0), &BTreeMap::new()).unwrap();
    let refusal = |m: &Model, bytes: &[u8]| load_safetensors(m, bytes).unwrap_err().to_string();
    assert!(refusal(&model, &file(&mlp(5))).contains("tensor fc1.bias has shape [5], expected [4]"));
    let linear = Model::new(&ModelSpec::Linear {}, &super::FEATURES).unwrap();
    assert!(refusal(&model, &file(&linear)).contains("fc1.bias is missing"));
    let deep = Model::new(&ModelSpec::Mlp { hidden: vec![4, 3] }, &super::FEATURES).unwrap();
    assert!(refusal(&deep, &file(&model)).contains("fc3.bias is missing"));
    assert!(refusal(&model, &file(&deep)).contains("fc3.bias is not one of this model"));

    let mut wide = file(&linear);
    let at = wide.windows(3).position(|w| w == b"F32").expect("the header names its types");
    wide[at] = b'I';
    assert!(refusal(&linear, &wide).contains("fc.bias is I32, expected F32"), "{}", refusal(&linear, &wide));
    assert!(save_safetensors(&model, &[0.0; 3], &BTreeMap::new()).is_err());
}

proptest! {
    #[test]
    fn damaged_files_never_panic(at in 0usize..400, value: u8, keep in 0usize..500) {
        let model = mlp(4);
        let mut bytes = save_safetensors(&model, &model.initial(0), &notes()).unwrap();
        let length = bytes.len();
        bytes[at % length] = value;
        bytes.truncate(keep.max(1).min(length));
        if let Ok(w) = load_safetensors(&model, &bytes) {
            prop_assert_eq!(w.len(), model.parameters());
        }
    }
}
