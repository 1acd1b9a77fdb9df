//! The procedural digits: the same everywhere, and neither trivial nor hopeless to learn.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use worker::data::{DataInfo, Dataset, Inputs, Source, Split};

fn digits(train: usize, seed: u64) -> Source {
    Source::Digits { train, test: 1000, seed }
}

fn dense(data: &Dataset) -> Vec<f32> {
    let all: Vec<usize> = (0..data.len()).collect();
    match data.batch(&all, None).inputs {
        Inputs::Dense(values) => values,
        Inputs::Tokens(_) => panic!("digits are images"),
    }
}

/// Pixels as they were drawn, from 0 to 255.
fn pixels(data: &Dataset) -> Vec<u8> {
    let (mean, std) = (data.normalisation().mean[0], data.normalisation().std[0]);
    dense(data).iter().map(|v| ((v * std + mean) * 255.0).round() as u8).collect()
}

fn accuracy(found: &[u32], data: &Dataset) -> f64 {
    let labels = data.labels().unwrap();
    found.iter().zip(&labels).filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

#[test]
fn shape_and_balance() {
    let source = digits(200, 1);
    let info = DataInfo::Images { channels: 1, height: 28, width: 28, classes: 10 };
    assert_eq!(source.info(0).unwrap(), info);
    let train = source.load(Split::Train, 0).unwrap();
    assert_eq!((train.info(), train.len()), (&info, 200));
    assert_eq!(train.class_histogram(), [20; 10]);
    assert!(train.keys().is_none());
}

#[test]
fn bytes_are_pinned() {
    // A change of this digest changes every result that was ever reported on the digits.
    let digest = blake3::hash(&pixels(&digits(100, 0).load(Split::Train, 0).unwrap()));
    assert_eq!(digest.to_hex()[..16], *"a4cf5eaaff168c2d");
}

#[test]
fn an_image_depends_on_seed_split_and_index_alone() {
    let few = pixels(&digits(20, 1).load(Split::Train, 0).unwrap());
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = one.install(|| pixels(&digits(50, 1).load(Split::Train, 0).unwrap()));
    assert_eq!(few, many[..few.len()]);
    let test = pixels(&digits(20, 1).load(Split::Test, 0).unwrap());
    let other = pixels(&digits(20, 2).load(Split::Train, 0).unwrap());
    for index in 0..20 {
        let image = index * 784..(index + 1) * 784;
        assert_ne!(few[image.clone()], test[image.clone()]);
        assert_ne!(few[image.clone()], other[image]);
    }
}

#[test]
fn constants_are_those_of_the_images() {
    let values = dense(&digits(3000, 9).load(Split::Train, 0).unwrap());
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
    let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
    assert!(mean.abs() < 0.02, "{mean}");
    assert!((square - 1.0).abs() < 0.03, "{square}");
}

#[test]
fn every_image_is_inked_and_inside_the_frame() {
    let data = digits(1000, 3).load(Split::Train, 0).unwrap();
    for (index, image) in pixels(&data).chunks_exact(784).enumerate() {
        let ink = image.iter().filter(|&&v| v > 110).count();
        assert!((15..400).contains(&ink), "image {index} has {ink} inked pixels");
        let border = (0..784).filter(|i| i % 28 == 0 || i % 28 == 27 || *i < 28 || *i >= 756);
        let cut = border.filter(|&i| image[i] > 110).count();
        assert!(cut <= 12, "image {index} has {cut} inked pixels at the border");
    }
}

#[test]
fn counts_are_checked() {
    for (train, words) in [(0, "train is 0"), (usize::MAX, "train is 18")] {
        let message = digits(train, 0).load(Split::Train, 0).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

/// Multinomial logistic regression by SGD with a falling rate; returns its answers on `test`.
fn linear_answers(train: &Dataset, test: &Dataset) -> Vec<u32> {
    let (inputs, labels) = (dense(train), train.labels().unwrap());
    let mut weights = vec![0.0f32; 10 * 785];
    let scores = |weights: &[f32], image: &[f32]| {
        let dot = |row: &[f32]| row[..784].iter().zip(image).map(|(w, x)| w * x).sum::<f32>() + row[784];
        weights.chunks_exact(785).map(dot).collect::<Vec<f32>>()
    };
    for epoch in 0..30 {
        let rate = 0.004 / (1.0 + epoch as f32 / 3.0);
        for index in worker::data::epoch_order(labels.len(), &[epoch]) {
            let image = &inputs[index * 784..][..784];
            let mut p = scores(&weights, image);
            let top = p.iter().copied().fold(f32::MIN, f32::max);
            for s in &mut p {
                *s = (*s - top).exp();
            }
            let sum: f32 = p.iter().sum();
            for (class, row) in weights.chunks_exact_mut(785).enumerate() {
                let step = rate * (p[class] / sum - f32::from(u8::from(labels[index] as usize == class)));
                row[..784].iter_mut().zip(image).for_each(|(w, x)| *w -= step * x);
                row[784] -= step;
            }
        }
    }
    let best = |s: Vec<f32>| (0..10).max_by(|&a, &b| s[a].total_cmp(&s[b])).unwrap() as u32;
    dense(test).chunks_exact(784).map(|image| best(scores(&weights, image))).collect()
}

/// The label of the nearest training image, after blurring both to 14×14 and scaling to unit length.
fn neighbour_answers(train: &Dataset, test: &Dataset) -> Vec<u32> {
    let blur = |data: &Dataset| -> Vec<Vec<f32>> {
        let images = pixels(data);
        let shrink = |image: &[u8]| {
            let cell = |i: usize| {
                let corner = i / 14 * 56 + i % 14 * 2;
                [0, 1, 28, 29].iter().map(|o| f32::from(image[corner + o])).sum::<f32>()
            };
            let mut small: Vec<f32> = (0..196).map(cell).collect();
            let norm = small.iter().map(|v| v * v).sum::<f32>().sqrt();
            for v in &mut small {
                *v /= norm;
            }
            small
        };
        images.chunks_exact(784).map(shrink).collect()
    };
    let (known, labels) = (blur(train), train.labels().unwrap());
    let closeness = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let answer = |image: &Vec<f32>| {
        let scored = known.iter().zip(&labels).map(|(other, label)| (closeness(image, other), label));
        *scored.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1
    };
    blur(test).iter().map(answer).collect()
}

#[test]
fn a_linear_model_struggles_where_shape_helps() {
    let source = digits(5000, 0);
    let (train, test) = (source.load(Split::Train, 0).unwrap(), source.load(Split::Test, 0).unwrap());
    let linear = accuracy(&linear_answers(&train, &test), &test);
    let neighbour = accuracy(&neighbour_answers(&train, &test), &test);
    println!("linear {linear}, nearest neighbour {neighbour}");
    assert!((0.7..0.9).contains(&linear), "linear {linear}");
    assert!(neighbour > 0.92 && neighbour > linear + 0.05, "nearest neighbour {neighbour}");
}
