//! Vetting of a whole upload in one call, for drivers without a wire: the simulation vets what its
//! virtual workers send with the functions that the service uses.

use crate::run::aggregate::{Form, Survey, vet_header, vet_values};
use algorithms::{Algorithm, Vectors, fold::UploadFacts};
use proto::{
    digest::Digest,
    spec::RunSpec,
    v1::{ElementType, RejectReason, UploadHeader},
};

/// Checks header, length, digest and values, in the order in which the service comes to know them.
/// `values`: the vectors of an upload end to end, for a model of `length` scalars.
///
/// # Errors
/// With the first reason not to count the upload, and what exactly is wrong.
pub fn vet(
    header: &UploadHeader,
    values: &[f32],
    (spec, algorithm, length): (&RunSpec, &dyn Algorithm, usize),
) -> Result<UploadFacts, (RejectReason, String)> {
    let (folds, shapes) = (spec.folds(algorithm), spec.upload(algorithm, length));
    let form = Form {
        shapes: &shapes,
        folds: &folds,
        max_norm: spec.vetting.max_norm,
        lr: spec.lr(header.round),
        element: ElementType::F32,
    };
    let facts = vet_header(header, &form)?;
    let announced =
        Digest::from_bytes(&header.digest).map_err(|error| (RejectReason::Digest, error.to_string()))?;
    let due: usize = shapes.iter().map(|(_, length)| length).sum();
    if values.len() != due {
        return Err((RejectReason::Length, format!("{} scalars, expected {due}", values.len())));
    }
    let digest = Digest::of(bytemuck::cast_slice(values));
    if digest != announced {
        return Err((RejectReason::Digest, format!("the payload has {digest}, announced was {announced}")));
    }
    let mut survey = Survey::new(shapes.iter().map(|(_, length)| *length));
    survey.extend(values);
    vet_values(values, &survey, &form, &facts)?;
    Ok(facts)
}

/// As [`vet`], for an upload that never left the process: there are no bytes to compare with a digest, and
/// its vectors need not lie end to end.
///
/// # Errors
/// With the first reason not to count the upload, and what exactly is wrong.
pub fn vet_local(
    header: &UploadHeader,
    upload: &Vectors,
    (spec, algorithm, length): (&RunSpec, &dyn Algorithm, usize),
) -> Result<UploadFacts, (RejectReason, String)> {
    let (folds, shapes) = (spec.folds(algorithm), spec.upload(algorithm, length));
    let (max_norm, lr) = (spec.vetting.max_norm, spec.lr(header.round));
    let form = Form { shapes: &shapes, folds: &folds, max_norm, lr, element: ElementType::F32 };
    let facts = vet_header(header, &form)?;
    for shape in &shapes {
        let (name, length) = *shape;
        let vector = upload.get(name).filter(|vector| vector.len() == length);
        let values = vector.ok_or_else(|| {
            (RejectReason::Length, format!("`{name}` is missing or not of {length} scalars"))
        })?;
        let survey = Survey::of(values);
        let one = Form { shapes: std::slice::from_ref(shape), ..form };
        vet_values(values, &survey, &one, &facts)?;
    }
    Ok(facts)
}
