//! Nodes and weights for a loss: Gauss–Legendre pieces, the trapezoid rule where the integrand is
//! analytic, atoms where the noise is discrete.

use super::{Noise, Part, Points, REACH};

impl Part {
    fn push(&self, ln_weight: f64, x: f64, points: &mut Points) {
        let (ln_q, loss) = self.at(x);
        points.push(self.share.ln() + ln_q + ln_weight, loss);
    }

    pub(super) fn whole(&self, t: f64, points: &mut Points) {
        match self.noise {
            Noise::Gaussian(sd) => {
                // The integrand is analytic up to the zeros of the mixtures at distance π·sd²/spread,
                // so that the trapezoid rule converges like e^{-2π·distance/step}.
                let (low, high) = self.gaussian_range(sd, t);
                let count = ((high - low) * (2.6 / sd).max(3.0 * self.spread() / (sd * sd))).ceil();
                let step = (high - low) / count;
                (0..=count as u64).for_each(|i| self.push(step.ln(), low + i as f64 * step, points));
            }
            Noise::Laplace(scale) => self.laplace_pieces(scale, t.abs(), points),
            _ => self.atoms(points),
        }
    }

    pub(super) fn bounded(&self, tail: f64, (t, oscillation): (f64, f64), points: &mut Points) {
        match self.noise {
            Noise::Gaussian(sd) => {
                let (low, high) = self.bounds(sd, tail);
                // The loss is steepest at the top, and bends most where both parts of a mixture weigh
                // the same.
                let slope = self.spread() / (sd * sd);
                let steepest = (self.at(high).1 - self.at(high - 1e-3 * sd).1) / (1e-3 * sd);
                let share = (steepest / slope).clamp(0.0, 0.5);
                let bend = t.abs() * slope * slope * share * (1.0 - share);
                let narrow = 2.5 / (1.0 / (sd * sd) + bend).sqrt();
                let widest = narrow.min(3.0 / slope).min(14.0 / (oscillation * steepest));
                let pieces = ((high - low) / widest).ceil();
                self.pieces((low, high), pieces, points);
            }
            Noise::Laplace(scale) => self.laplace_pieces(scale, t.abs() + oscillation, points),
            _ => self.atoms(points),
        }
    }

    pub(super) fn cells(&self, tail: f64, spacing: f64, points: &mut Points) {
        match self.noise {
            Noise::Gaussian(sd) => {
                let (low, high) = self.bounds(sd, tail);
                let widest = (0.25 * sd).min(0.25 * sd * sd / self.spread());
                self.cut(low, high, (spacing, widest), points);
            }
            Noise::Laplace(scale) => {
                let widest = 0.25 * scale;
                self.laplace(points, |part, from, to, points| part.cut(from, to, (spacing, widest), points));
            }
            _ => self.atoms(points),
        }
    }

    fn laplace_pieces(&self, scale: f64, exponent: f64, points: &mut Points) {
        let swing = (exponent + 4.0) * self.spread() / scale;
        self.laplace(points, |part, from, to, points| {
            part.pieces((from, to), (swing / 4.0 + 4.0).ceil(), points);
        });
    }

    fn pieces(&self, (low, high): (f64, f64), count: f64, points: &mut Points) {
        let width = (high - low) / count;
        for i in 0..count as u64 {
            let from = low + i as f64 * width;
            self.piece(from, from + width, &GAUSS_16, points);
        }
    }

    /// Laplace noise: the loss is constant outside all shifts, and smooth between two of them.
    fn laplace(&self, points: &mut Points, between: impl Fn(&Self, f64, f64, &mut Points)) {
        let Noise::Laplace(scale) = self.noise else { return };
        let mut corners: Vec<f64> = self.shifts().chain([0.0]).collect();
        corners.sort_by(f64::total_cmp);
        corners.dedup();
        // ∫ of q beyond the outermost corner: its density there times the scale.
        self.push(scale.ln(), corners[0], points);
        self.push(scale.ln(), corners[corners.len() - 1], points);
        for pair in corners.windows(2) {
            between(self, pair[0], pair[1], points);
        }
    }

    /// Cells between `from` and `to` that are at most `widest` wide and cross no multiple of `spacing`.
    fn cut(&self, from: f64, to: f64, (spacing, widest): (f64, f64), points: &mut Points) {
        let mut x = from;
        // An index, since a rounded quotient could ask for the same edge again.
        let mut edge_index = (self.at(x).1 / spacing).floor() + 1.0;
        let mut stride = widest;
        while x < to {
            let end = (x + widest).min(to);
            let edge = edge_index * spacing;
            let tolerance = 1e-9 * spacing + 4.0 * f64::EPSILON * edge.abs();
            let crosses = self.at(end).1 >= edge;
            let next = if crosses { self.crossing((x, end), edge, (stride, tolerance)) } else { end };
            if next > x {
                let narrow = next - x < widest / 16.0;
                self.piece(x, next, if narrow { &GAUSS_3 } else { &GAUSS_6 }, points);
                stride = next - x;
            }
            edge_index += f64::from(u8::from(crosses));
            x = next;
        }
    }

    /// Where the loss, which rises, reaches `edge` in the interval, by secant steps from a guess.
    fn crossing(&self, (mut low, mut high): (f64, f64), edge: f64, (guess, tolerance): (f64, f64)) -> f64 {
        let (mut x0, mut f0) = (low, self.at(low).1 - edge);
        let mut x = (low + guess).min(high);
        for _ in 0..60 {
            let f = self.at(x).1 - edge;
            if f.abs() <= tolerance || high - low <= 4.0 * f64::EPSILON * high.abs() {
                break;
            }
            if f < 0.0 {
                low = x;
            } else {
                high = x;
            }
            let secant = x - f * (x - x0) / (f - f0);
            (x0, f0) = (x, f);
            x = if secant > low && secant < high { secant } else { f64::midpoint(low, high) };
        }
        x
    }

    fn piece(&self, from: f64, to: f64, rule: &[(f64, f64)], points: &mut Points) {
        let (middle, half) = (f64::midpoint(from, to), 0.5 * (to - from));
        for (node, weight) in rule {
            self.push((half * weight).ln(), middle + half * node, points);
        }
    }

    /// Distributions on integers and answers.
    fn atoms(&self, points: &mut Points) {
        let (low, high, ln_norm) = match self.noise {
            Noise::DiscreteGaussian(sd) => {
                // Far enough for orders up to a thousand deviations.
                let far = (REACH * sd).max(2.0 * self.spread()) + 2.0;
                let (low, high) = (-far - self.spread(), far + self.spread());
                let reach = (12.0 * sd + 12.0).ceil() as i64;
                let norm: f64 = (1..=reach).map(|x| (-0.5 * (x as f64 / sd).powi(2)).exp()).sum();
                (low, high, (2.0 * norm).ln_1p())
            }
            Noise::DiscreteLaplace(scale) => {
                let reach = 90.0 * scale + self.spread();
                (-reach, reach, 0.0)
            }
            Noise::Response { ln_odds, other, rest } => {
                points.push(other.ln(), ln_odds);
                points.push(other.ln() + ln_odds, -ln_odds);
                if rest > 0.0 {
                    points.push(rest.ln(), 0.0);
                }
                return;
            }
            Noise::Gaussian(_) | Noise::Laplace(_) => return,
        };
        for x in low.floor() as i64..=high.ceil() as i64 {
            self.push(-ln_norm, x as f64, points);
        }
    }
}

/// Gauss–Legendre nodes and weights on [−1, 1].
const GAUSS_3: [(f64, f64); 3] = [
    (-0.774_596_669_241_483_4, 0.555_555_555_555_555_6),
    (0.0, 0.888_888_888_888_889),
    (0.774_596_669_241_483_4, 0.555_555_555_555_555_6),
];
const GAUSS_6: [(f64, f64); 6] = [
    (-0.932_469_514_203_152, 0.171_324_492_379_170_35),
    (-0.661_209_386_466_264_5, 0.360_761_573_048_138_6),
    (-0.238_619_186_083_196_9, 0.467_913_934_572_691),
    (0.238_619_186_083_196_9, 0.467_913_934_572_691),
    (0.661_209_386_466_264_5, 0.360_761_573_048_138_6),
    (0.932_469_514_203_152, 0.171_324_492_379_170_35),
];
const GAUSS_16: [(f64, f64); 16] = {
    let half = [
        (0.095_012_509_837_637_44, 0.189_450_610_455_068_5),
        (0.281_603_550_779_258_9, 0.182_603_415_044_923_6),
        (0.458_016_777_657_227_4, 0.169_156_519_395_002_54),
        (0.617_876_244_402_643_7, 0.149_595_988_816_576_73),
        (0.755_404_408_355_003, 0.124_628_971_255_533_87),
        (0.865_631_202_387_831_7, 0.095_158_511_682_492_78),
        (0.944_575_023_073_232_6, 0.062_253_523_938_647_89),
        (0.989_400_934_991_649_9, 0.027_152_459_411_754_095),
    ];
    let mut all = [(0.0, 0.0); 16];
    let mut i = 0;
    while i < 8 {
        all[i] = (-half[i].0, half[i].1);
        all[i + 8] = half[i];
        i += 1;
    }
    all
};
