//! JPEG and PNG to planes of bytes, many at a time.

use std::io::Cursor;

use image::{ImageReader, Limits};
use rayon::prelude::*;

use super::DataError;
use super::augment::Pixels;

/// Longest side of an image that is taken seriously, pixels.
const LONGEST: u32 = 4096;

/// Largest split that is held in memory, bytes.
const MOST: usize = 1 << 33;

/// Makes an error out of the number of an image, what is wrong with it and what was expected.
pub(crate) type Blame<'a> = &'a (dyn Fn(usize, String, String) -> DataError + Sync);

/// Shape and planes of one encoded image: one channel for greyscale, else three; alpha is dropped.
pub(crate) fn decode(encoded: &[u8]) -> Result<(Pixels, Vec<u8>), String> {
    let mut reader =
        ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(|e| e.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST);
    limits.max_image_height = Some(LONGEST);
    reader.limits(limits);
    let image = reader.decode().map_err(|e| e.to_string())?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    if image.color().has_color() {
        let interleaved = image.into_rgb8().into_raw();
        let planes = (0..3).flat_map(|c| interleaved.iter().skip(c).step_by(3).copied()).collect();
        Ok((Pixels { channels: 3, height, width }, planes))
    } else {
        Ok((Pixels { channels: 1, height, width }, image.into_luma8().into_raw()))
    }
}

/// Decodes all images, in parallel; the first gives the shape that all must have.
///
/// Greyscale images among coloured ones get three equal channels; a coloured one among greyscale ones
/// is an error, since its colour would be lost. Of several faulty images the first is reported.
pub(crate) fn decode_all<T: AsRef<[u8]> + Sync>(
    encoded: &[T],
    blame: Blame<'_>,
) -> Result<(Pixels, Vec<u8>), DataError> {
    let kind = || "a JPEG or PNG image".to_owned();
    let first = encoded.first().ok_or_else(|| blame(0, "no image".into(), "at least one".into()))?;
    let (shape, _) = decode(first.as_ref()).map_err(|problem| blame(0, problem, kind()))?;
    let total = encoded.len().checked_mul(shape.len()).filter(|&n| n <= MOST);
    let Some(total) = total else {
        let problem = format!("{} images of {shape}", encoded.len());
        return Err(blame(0, problem, format!("at most {MOST} bytes of pixels")));
    };
    let mut pixels = vec![0; total];
    let slots = pixels.par_chunks_exact_mut(shape.len().max(1)).zip(encoded).enumerate();
    let fault = slots.filter_map(|(index, (slot, bytes))| {
        let outcome = decode(bytes.as_ref()).map_err(|problem| blame(index, problem, kind()));
        let fill = |(found, planes): (Pixels, Vec<u8>)| {
            let grey = Pixels { channels: 1, ..shape };
            if found == shape {
                slot.copy_from_slice(&planes);
            } else if found == grey {
                slot.chunks_exact_mut(planes.len()).for_each(|plane| plane.copy_from_slice(&planes));
            } else {
                return Err(blame(index, format!("image is {found}"), format!("{shape}, like the first")));
            }
            Ok(())
        };
        outcome.and_then(fill).err()
    });
    match fault.find_first(|_| true) {
        Some(fault) => Err(fault),
        None => Ok((shape, pixels)),
    }
}
