use std::path::Path;
use worker::data::*;
#[test]
fn sheet() {
    let t = std::time::Instant::now();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (train, test) = pool.install(|| {
        let s = Source::default();
        (s.load(Split::Train, 0).unwrap(), s.load(Split::Test, 0).unwrap())
    });
    println!("generated in {:?}", t.elapsed());
    let idx: Vec<usize> = (0..400).collect();
    let Inputs::Dense(d) = test.batch(&idx, None).inputs else { panic!() };
    let mut img = image::GrayImage::new(20 * 56, 20 * 56);
    for (i, im) in d.chunks(784).enumerate() {
        let (r, c) = (i / 20, i % 20);
        for (k, v) in im.iter().enumerate() {
            for s in 0..4 {
                img.put_pixel(
                    (c * 56 + (k % 28) * 2 + s % 2) as u32,
                    (r * 56 + k / 28 * 2 + s / 2) as u32,
                    image::Luma([((v * 0.3081 + 0.1307) * 255.0).round() as u8]),
                );
            }
        }
    }
    img.save("/tmp/sheet.png").unwrap();
    for (ds, n, f) in [(&train, 10000, "/tmp/train.f32"), (&test, 2000, "/tmp/test.f32")] {
        let idx: Vec<usize> = (0..n).collect();
        let Inputs::Dense(d) = ds.batch(&idx, None).inputs else { panic!() };
        std::fs::write(f, d.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    }
}
#[test]
fn real() {
    for p in ["mnist", "cifar10-jpeg", "tinyshakespeare.txt"] {
        let t = std::time::Instant::now();
        let (name, source) = detect(&Path::new("/work/shared/data").join(p)).unwrap();
        println!("{p}: {name} {source:?} detect {:?}", t.elapsed());
        let t = std::time::Instant::now();
        println!("  {:?} {:?}", source.info(80).unwrap(), t.elapsed());
        for split in [Split::Train, Split::Test] {
            let t = std::time::Instant::now();
            let d = source.load(split, 80).unwrap();
            println!(
                "  {split:?} {} {:?} {:?} keys {:?} {:?}",
                d.len(),
                d.class_histogram(),
                d.normalisation(),
                d.keys().map(|k| k.names.len()),
                t.elapsed()
            );
            let order = epoch_order(d.len(), &[1]);
            let t = std::time::Instant::now();
            let mut rng = stream("x", &[]);
            for c in order.chunks(50).take(200) {
                std::hint::black_box(d.batch(c, Some(&mut rng)));
            }
            println!("  200 batches of 50: {:?}", t.elapsed());
        }
    }
}
