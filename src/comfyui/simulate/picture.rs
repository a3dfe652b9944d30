//! Pictures that are described rather than held: drawn row by row while they are encoded, so that a large one needs no memory.

use std::borrow::Cow;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;

/// Pixels of an uploaded picture that are decoded; a larger one is drawn from its name instead.
const MOST_DECODED: u64 = 64 * 1024 * 1024;

/// A batch of pictures of one size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Picture {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
    /// How many.
    pub batch: u32,
    /// What they show.
    pub fill: Fill,
}

/// What a picture shows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fill {
    /// One colour, 0xRRGGBB.
    Flat(u32),
    /// A gradient whose colours come from this seed.
    Gradient(u64),
    /// These pixels, three bytes each.
    Pixels(Arc<[u8]>),
}

impl Picture {
    /// The pixels of the whole batch.
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) * u64::from(self.batch)
    }

    /// Writes one picture of the batch as a PNG with these text chunks (ASCII). `Ok(false)` if `stop` asked for an end; what
    /// was written is then no whole picture.
    pub(super) fn write_png(
        &self,
        number: u32,
        texts: &[(&str, String)],
        out: impl Write,
        stop: impl Fn() -> bool,
    ) -> io::Result<bool> {
        let mut encoder = png::Encoder::new(out, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        for (keyword, text) in texts {
            encoder
                .add_text_chunk((*keyword).to_owned(), text.clone())
                .map_err(io::Error::other)?;
        }
        let mut writer = encoder.write_header()?;
        let mut stream = writer.stream_writer()?;
        let mut row = vec![0; self.width as usize * 3];
        for y in 0..self.height {
            if stop() {
                return Ok(false);
            }
            self.draw_row(number, y, &mut row);
            stream.write_all(&row)?;
        }
        stream.finish()?;
        writer.finish()?;
        Ok(true)
    }

    /// A small PNG of the first picture, at most 64 pixels a side.
    pub(super) fn thumbnail(&self) -> io::Result<Vec<u8>> {
        let small = Picture {
            width: self.width.min(64),
            height: self.height.min(64),
            batch: 1,
            fill: self.fill.clone(),
        };
        let mut png = Vec::new();
        small.write_png(0, &[], &mut png, || false)?;
        Ok(png)
    }

    fn draw_row(&self, number: u32, y: u32, row: &mut [u8]) {
        match &self.fill {
            Fill::Flat(colour) => {
                let [_, red, green, blue] = colour.to_be_bytes();
                row.chunks_exact_mut(3)
                    .for_each(|pixel| pixel.copy_from_slice(&[red, green, blue]));
            }
            Fill::Pixels(pixels) => {
                let start = y as usize * row.len();
                if let Some(source) = pixels.get(start..start + row.len()) {
                    row.copy_from_slice(source);
                }
            }
            Fill::Gradient(seed) => {
                let colours = [0u64, 1, 2]
                    .map(|corner| mix(seed ^ u64::from(number) << 8 ^ corner).to_be_bytes());
                let down = y * 255 / self.height.max(1);
                for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                    let across = (x as u32).saturating_mul(255) / self.width.max(1);
                    for (channel, value) in pixel.iter_mut().enumerate() {
                        let [start, end, low] = colours.map(|colour| u32::from(colour[channel]));
                        let top = (start * (255 - across) + end * across) / 255;
                        *value = ((top * (255 - down) + low * down) / 255) as u8;
                    }
                }
            }
        }
    }
}

/// The picture in a PNG. `None` if it is none, damaged, or too large.
pub(super) fn read_png(source: impl Read + Seek) -> Option<Picture> {
    let mut decoder = png::Decoder::new(io::BufReader::new(source));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().ok()?;
    let (width, height) = reader.info().size();
    if u64::from(width) * u64::from(height) > MOST_DECODED {
        return None;
    }
    let mut data = vec![0; reader.output_buffer_size()?];
    let frame = reader.next_frame(&mut data).ok()?;
    data.truncate(frame.buffer_size());
    let pixels: Cow<'_, [u8]> = match frame.color_type {
        png::ColorType::Rgb => Cow::Borrowed(&data),
        png::ColorType::Rgba => data
            .chunks_exact(4)
            .flat_map(|pixel| [pixel[0], pixel[1], pixel[2]])
            .collect(),
        png::ColorType::Grayscale => data.iter().flat_map(|grey| [*grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => data
            .chunks_exact(2)
            .flat_map(|pixel| [pixel[0]; 3])
            .collect(),
        png::ColorType::Indexed => return None,
    };
    Some(Picture {
        width,
        height,
        batch: 1,
        fill: Fill::Pixels(pixels.into()),
    })
}

/// Spreads a seed over all bits (SplitMix64, Steele and others 2014).
pub(super) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(picture: &Picture) -> Vec<u8> {
        let mut png = Vec::new();
        assert!(
            picture
                .write_png(0, &[("prompt", "{}".into())], &mut png, || false)
                .unwrap()
        );
        png
    }

    #[test]
    fn a_flat_picture_has_its_size_and_colour_everywhere() {
        let flat = Picture {
            width: 7,
            height: 5,
            batch: 1,
            fill: Fill::Flat(0x01_02_ff),
        };
        let read = read_png(io::Cursor::new(encoded(&flat))).unwrap();
        assert_eq!((read.width, read.height), (7, 5));
        assert_eq!(read.fill, Fill::Pixels([1, 2, 255].repeat(35).into()));
        assert_eq!(encoded(&read), encoded(&flat));
    }

    #[test]
    fn the_same_seed_draws_the_same_gradient_and_another_seed_another() {
        let gradient = |seed| Picture {
            width: 16,
            height: 16,
            batch: 1,
            fill: Fill::Gradient(seed),
        };
        assert_eq!(encoded(&gradient(1)), encoded(&gradient(1)));
        assert_ne!(encoded(&gradient(1)), encoded(&gradient(2)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..100) {
            prop_assert!(read_png(io::Cursor::new(&bytes)).is_none() || bytes.len() > 8);
            let mut png = encoded(&Picture { width: 9, height: 9, batch: 1, fill: Fill::Gradient(3) });
            let at = cut % png.len();
            png.truncate(at + 20);
            bytes.truncate(4);
            png.splice(at..at + bytes.len().min(png.len() - at), bytes);
            read_png(io::Cursor::new(png));
        }
    }
}
