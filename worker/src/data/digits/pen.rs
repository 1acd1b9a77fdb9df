//! The pen: bends a glyph, inks it anti-aliased, adds the grain of the paper.

use rand_chacha::rand_core::Rng as _;

use super::SIDE;
use super::glyphs::GLYPHS;
use crate::data::random::{Rng, below, uniform};

type Point = (f64, f64);

/// Straight pieces that stand for the curve between two points of a stroke.
const PIECES: usize = 6;

/// Pixels from the centre to the top of a glyph of scale 1.
const HALF_HEIGHT: f64 = 9.0;

/// Draws `digit` into `image` (28×28, ink is bright).
pub(super) fn draw(digit: usize, rng: &mut Rng, image: &mut [u8]) {
    let ways = GLYPHS[digit];
    let glyph = ways[below(rng, ways.len())];
    let hand = Hand::draw(rng);
    let radius = between(rng, 0.65, 1.7);
    let mut distance = vec![f64::INFINITY; SIDE * SIDE];
    for stroke in glyph {
        let line: Vec<Point> = smooth(stroke).into_iter().map(|p| hand.place(p)).collect();
        for ends in line.windows(2) {
            ink(&mut distance, ends[0], ends[1], radius);
        }
    }
    let strength = between(rng, 140.0, 255.0);
    let grain = between(rng, 4.0, 26.0);
    for (pixel, squared) in image.iter_mut().zip(distance) {
        let cover = (radius + 0.5 - squared.sqrt()).clamp(0.0, 1.0);
        *pixel = (strength * cover + grain * noise(rng)).clamp(0.0, 255.0) as u8;
    }
}

/// How this hand slants, stretches, shifts and trembles.
struct Hand {
    /// Columns of the affine map from glyph to pixel coordinates.
    x: Point,
    y: Point,
    origin: Point,
    /// Displacements on a grid over the glyph, interpolated between.
    tremble: [[Point; GRID]; GRID],
}

const GRID: usize = 4;

impl Hand {
    fn draw(rng: &mut Rng) -> Self {
        let scale = HALF_HEIGHT * between(rng, 0.72, 1.12);
        let aspect = between(rng, 0.75, 1.25);
        let shear = between(rng, -0.3, 0.3);
        // A rotation by 2·atan(t), from its rational form: up to 23 degrees.
        let t = between(rng, -0.2, 0.2);
        let (cos, sin) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        let wide = scale * aspect;
        let middle = SIDE as f64 / 2.0;
        let strength = between(rng, 0.02, 0.14);
        let mut shift = || (strength * noise(rng), strength * noise(rng));
        let tremble = std::array::from_fn(|_| std::array::from_fn(|_| shift()));
        Self {
            x: (wide * cos, wide * sin),
            y: (scale * (-shear * cos - sin), scale * (cos - shear * sin)),
            origin: (middle + between(rng, -3.0, 3.0), middle + between(rng, -3.0, 3.0)),
            tremble,
        }
    }

    fn place(&self, point: Point) -> Point {
        let (dx, dy) = self.bend(point);
        let (x, y) = (point.0 + dx, point.1 + dy);
        (self.origin.0 + self.x.0 * x + self.y.0 * y, self.origin.1 + self.x.1 * x + self.y.1 * y)
    }

    /// The displacement at a point, smooth in it, so that strokes that meet still meet.
    fn bend(&self, point: Point) -> Point {
        let last = (GRID - 1) as f64;
        let locate = |c: f64| {
            let at = ((c + 1.0) * 0.5 * last).clamp(0.0, last);
            let cell = (at as usize).min(GRID - 2);
            let t = at - cell as f64;
            (cell, t * t * (3.0 - 2.0 * t))
        };
        let ((column, u), (row, v)) = (locate(point.0), locate(point.1));
        let mix = |a: Point, b: Point, t: f64| (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t);
        let along = |row: usize| mix(self.tremble[row][column], self.tremble[row][column + 1], u);
        mix(along(row), along(row + 1), v)
    }
}

/// The Catmull–Rom curve through the points, as straight pieces; closed if it ends where it began.
fn smooth(points: &[Point]) -> Vec<Point> {
    let n = points.len();
    if n == 2 {
        let (a, b) = (points[0], points[1]);
        return (0..=PIECES).map(|i| between_points(a, b, i as f64 / PIECES as f64)).collect();
    }
    let closed = points[0] == points[n - 1];
    let mut line = vec![points[0]];
    for i in 0..n - 1 {
        let before = if i > 0 {
            i - 1
        } else if closed {
            n - 2
        } else {
            0
        };
        let after = if i + 2 < n {
            i + 2
        } else if closed {
            1
        } else {
            n - 1
        };
        let [a, b, c, d] = [before, i, i + 1, after].map(|k| points[k]);
        line.extend((1..=PIECES).map(|step| {
            let t = step as f64 / PIECES as f64;
            (catmull_rom([a.0, b.0, c.0, d.0], t), catmull_rom([a.1, b.1, c.1, d.1], t))
        }));
    }
    line
}

fn between_points(a: Point, b: Point, t: f64) -> Point {
    (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t)
}

fn catmull_rom([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    let cubic = -a + 3.0 * b - 3.0 * c + d;
    let quadratic = 2.0 * a - 5.0 * b + 4.0 * c - d;
    0.5 * (2.0 * b + t * (c - a + t * (quadratic + t * cubic)))
}

/// Lowers the squared distance to ink of the pixels near one straight piece.
fn ink(distance: &mut [f64], a: Point, b: Point, radius: f64) {
    let reach = radius + 1.0;
    let span = |p: f64, q: f64| {
        let bound = |v: f64| v.clamp(0.0, SIDE as f64) as usize;
        bound(p.min(q) - reach)..bound(p.max(q) + reach + 1.0)
    };
    let along = (b.0 - a.0, b.1 - a.1);
    let length = along.0 * along.0 + along.1 * along.1;
    for y in span(a.1, b.1) {
        for x in span(a.0, b.0) {
            let from = (x as f64 + 0.5 - a.0, y as f64 + 0.5 - a.1);
            let dot = from.0 * along.0 + from.1 * along.1;
            let t = if length > 0.0 { (dot / length).clamp(0.0, 1.0) } else { 0.0 };
            let (dx, dy) = (from.0 - t * along.0, from.1 - t * along.1);
            let nearest = &mut distance[y * SIDE + x];
            *nearest = nearest.min(dx * dx + dy * dy);
        }
    }
}

fn between(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * uniform(rng)
}

/// Nearly normal with mean 0 and variance 1: four uniform 16-bit numbers, since a true normal needs
/// functions whose last bit differs between platforms.
fn noise(rng: &mut Rng) -> f64 {
    let word = rng.next_u64();
    let sum: u64 = (0..4).map(|i| word >> (16 * i) & 0xffff).sum();
    // The variance of the sum is 4 · 65536² / 12.
    (sum as f64 - 2.0 * 65535.0) / 37_837.2
}
