// 3 x 3 convolutions with a padding of 1 by Winograd's minimal filtering F(4 x 4, 3 x 3), on one core (Lavin & Gray,
// "Fast algorithms for convolutional neural networks", CVPR 2016).
//
// Images are (images, rows, columns, channels), kernels (3, 3, from, to), both single precision and without gaps; the
// numbers of channels are multiples of 8. An image is cut into tiles of 4 x 4 pixels. A tile, the pixels around it and
// the kernel are each transformed to 6 x 6 points, at which convolving is multiplying: 36 products of matrices in place
// of 144 multiplications by pixel.

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

// Compiled to what the processor has for eight numbers at once.
typedef float Eight __attribute__((vector_size(32), aligned(4)));

constexpr int POINTS = 36;
// So many tiles at a time: with their points, they stay in the cache next to a core. A multiple of LINES.
constexpr int TILES = 24;
// So many rows of a matrix by sixteen columns fill the registers.
constexpr int LINES = 6;
// Of pixels beyond the image, and of points of tiles that are not there.
constexpr int MOST_CHANNELS = 1024;
const float nothing[MOST_CHANNELS] = {};

inline Eight load(const float *from) { return *reinterpret_cast<const Eight *>(from); }
inline void store(float *to, Eight values) { *reinterpret_cast<Eight *>(to) = values; }

// The transforms along one axis, of rows that lie `stride` apart, to rows one after another.

inline void from_pixels(const Eight *in, int stride, Eight *out) {
  const Eight a = in[0], b = in[stride], c = in[2 * stride], d = in[3 * stride], e = in[4 * stride], f = in[5 * stride];
  const Eight even = e - 4.f * c, odd = d - 4.f * b, far = e - c, twice = 2.f * (d - b);
  out[0] = 4.f * a - 5.f * c + e;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = far + twice;
  out[4] = far - twice;
  out[5] = 4.f * b - 5.f * d + f;
}

inline void to_pixels(const Eight *in, int stride, Eight *out) {
  const Eight sum = in[stride] + in[2 * stride], difference = in[stride] - in[2 * stride];
  const Eight far = in[3 * stride] + in[4 * stride], twice = 2.f * (in[3 * stride] - in[4 * stride]);
  out[0] = in[0] + sum + far;
  out[1] = difference + twice;
  out[2] = sum + 4.f * far;
  out[3] = difference + 4.f * twice + in[5 * stride];
}

inline void from_gradient(const Eight *in, int stride, Eight *out) {
  const Eight a = in[0], b = in[stride], c = in[2 * stride], d = in[3 * stride];
  const Eight even = a + c, odd = b + d, far = a + 4.f * c, twice = 2.f * b + 8.f * d;
  out[0] = a;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = far + twice;
  out[4] = far - twice;
  out[5] = d;
}

inline void from_kernel(const Eight *in, int stride, Eight *out) {
  const Eight a = in[0], b = in[stride], c = in[2 * stride];
  const Eight ends = (a + c) / 6.f, middle = b / 6.f, far = a / 24.f + c / 6.f, half = b / 12.f;
  out[0] = a / 4.f;
  out[1] = -ends - middle;
  out[2] = middle - ends;
  out[3] = far + half;
  out[4] = far - half;
  out[5] = c;
}

inline void to_kernel(const Eight *in, int stride, Eight *out) {
  const Eight sum = in[stride] + in[2 * stride], difference = in[2 * stride] - in[stride];
  const Eight far = in[3 * stride] + in[4 * stride], half = in[3 * stride] - in[4 * stride];
  out[0] = in[0] / 4.f - sum / 6.f + far / 24.f;
  out[1] = difference / 6.f + half / 12.f;
  out[2] = (far - sum) / 6.f + in[5 * stride];
}

struct Images {
  int64_t images, rows, columns;
  int64_t down() const { return (rows + 3) / 4; }
  int64_t across() const { return (columns + 3) / 4; }
  int64_t tiles() const { return images * down() * across(); }
};

// The image of a tile, and where its pixels begin there.
struct Tile {
  int64_t image, row, column;
  Tile(const Images &of, int64_t number)
      : image(number / (of.down() * of.across())),
        row(number / of.across() % of.down() * 4),
        column(number % of.across() * 4) {}
};

// Where points[i][j][tile] begins.
inline int64_t at_point(int i, int j, int tile, int channels) {
  return ((i * 6 + j) * TILES + tile) * int64_t(channels);
}

// Transform tiles, `BEFORE` pixels before each included, `SIZE` x `SIZE` pixels, to points[point][tile][channel].
template <int SIZE, int BEFORE, void (*transform)(const Eight *, int, Eight *)>
void to_points(const Images &of, const float *pixels, int channels, int64_t first, int count, float *points) {
  for (int tile = 0; tile < count; ++tile) {
    const Tile at(of, first + tile);
    const float *places[SIZE * SIZE];
    for (int i = 0; i < SIZE; ++i)
      for (int j = 0; j < SIZE; ++j) {
        const int64_t row = at.row + i - BEFORE, column = at.column + j - BEFORE;
        const bool within = row >= 0 && row < of.rows && column >= 0 && column < of.columns;
        const int64_t pixel = (at.image * of.rows + row) * of.columns + column;
        places[i * SIZE + j] = within ? pixels + pixel * channels : nothing;
      }
    for (int channel = 0; channel < channels; channel += 8) {
      Eight down[SIZE][6], across[6], column[SIZE];
      for (int j = 0; j < SIZE; ++j) {
        for (int i = 0; i < SIZE; ++i) column[i] = load(places[i * SIZE + j] + channel);
        transform(column, 1, down[j]);
      }
      for (int i = 0; i < 6; ++i) {
        transform(&down[0][i], 6, across);
        for (int j = 0; j < 6; ++j) store(points + at_point(i, j, tile, channels) + channel, across[j]);
      }
    }
  }
}

void from_points(
    const Images &of, const float *points, const float *bias, int channels, int64_t first, int count, float *pixels) {
  for (int tile = 0; tile < count; ++tile) {
    const Tile at(of, first + tile);
    const int64_t rows = std::min<int64_t>(4, of.rows - at.row), columns = std::min<int64_t>(4, of.columns - at.column);
    for (int channel = 0; channel < channels; channel += 8) {
      Eight down[6][4], across[4], column[6];
      for (int j = 0; j < 6; ++j) {
        for (int i = 0; i < 6; ++i) column[i] = load(points + at_point(i, j, tile, channels) + channel);
        to_pixels(column, 1, down[j]);
      }
      const Eight shift = load(bias + channel);
      for (int i = 0; i < rows; ++i) {
        to_pixels(&down[0][i], 4, across);
        float *row = pixels + ((at.image * of.rows + at.row + i) * of.columns + at.column) * channels + channel;
        for (int j = 0; j < columns; ++j) store(row + j * channels, across[j] + shift);
      }
    }
  }
}

// C (lines x columns) = A B, or with `ADDS` what it was and A B: LINES or fewer lines, 8 `WIDE` columns, `depth` terms.
// Of A, the term lies `along` and the line `between` apart.
template <int HIGH, int WIDE, bool ADDS>
inline void block(
    const float *a, int64_t along, int64_t between, const float *b, int64_t columns, float *c, int depth) {
  Eight sums[HIGH][WIDE];
  for (int i = 0; i < HIGH; ++i)
    for (int j = 0; j < WIDE; ++j) sums[i][j] = load(ADDS ? c + i * columns + 8 * j : nothing);
  for (int k = 0; k < depth; ++k) {
    Eight row[WIDE];
    for (int j = 0; j < WIDE; ++j) row[j] = load(b + k * columns + 8 * j);
    for (int i = 0; i < HIGH; ++i) {
      const float factor = a[k * along + i * between];
      for (int j = 0; j < WIDE; ++j) sums[i][j] += factor * row[j];
    }
  }
  for (int i = 0; i < HIGH; ++i)
    for (int j = 0; j < WIDE; ++j) store(c + i * columns + 8 * j, sums[i][j]);
}

template <int WIDE, bool ADDS>
inline void lines(
    const float *a, int64_t along, int64_t between, const float *b, int columns, float *c, int count, int depth) {
  int line = 0;
  for (; line + LINES <= count; line += LINES)
    block<LINES, WIDE, ADDS>(a + line * between, along, between, b, columns, c + line * columns, depth);
  for (; line + 2 <= count; line += 2)
    block<2, WIDE, ADDS>(a + line * between, along, between, b, columns, c + line * columns, depth);
}

template <bool ADDS>
void multiply(
    const float *a, int64_t along, int64_t between, const float *b, int columns, float *c, int count, int depth) {
  int column = 0;
  for (; column + 16 <= columns; column += 16)
    lines<2, ADDS>(a, along, between, b + column, columns, c + column, count, depth);
  for (; column < columns; column += 8)
    lines<1, ADDS>(a, along, between, b + column, columns, c + column, count, depth);
}

}  // namespace

extern "C" {

// Convolve with a kernel, and add `bias` (to).
void convolve(
    int64_t images, int64_t rows, int64_t columns, int from, int to, const float *pixels, const float *kernel,
    const float *bias, float *convolved) {
  const Images of{images, rows, columns};
  const int64_t size = int64_t(from) * to;
  std::vector<float> weights(POINTS * size), points(POINTS * TILES * from), products(POINTS * TILES * to);
  for (int64_t at = 0; at < size; at += 8) {
    Eight down[3][6], across[6], column[3];
    for (int j = 0; j < 3; ++j) {
      for (int i = 0; i < 3; ++i) column[i] = load(kernel + (i * 3 + j) * size + at);
      from_kernel(column, 1, down[j]);
    }
    for (int i = 0; i < 6; ++i) {
      from_kernel(&down[0][i], 6, across);
      for (int j = 0; j < 6; ++j) store(&weights[(i * 6 + j) * size + at], across[j]);
    }
  }
  for (int64_t first = 0; first < of.tiles(); first += TILES) {
    const int count = std::min<int64_t>(TILES, of.tiles() - first);
    to_points<6, 1, from_pixels>(of, pixels, from, first, count, points.data());
    // Whole groups of lines: what is left over is not read.
    const int whole = (count + LINES - 1) / LINES * LINES;
    for (int64_t point = 0; point < POINTS; ++point)
      multiply<false>(
          &points[point * TILES * from], 1, from, &weights[point * size], to, &products[point * TILES * to], whole,
          from);
    from_points(of, products.data(), bias, to, first, count, convolved);
  }
}

// The gradients of the kernel and of `bias`, given that of what was convolved.
void gradients(
    int64_t images, int64_t rows, int64_t columns, int from, int to, const float *pixels, const float *gradient,
    float *kernel_gradient, float *bias_gradient) {
  const Images of{images, rows, columns};
  const int64_t size = int64_t(from) * to;
  std::vector<float> sums(POINTS * size), points(POINTS * TILES * from), slopes(POINTS * TILES * to);
  for (int64_t first = 0; first < of.tiles(); first += TILES) {
    const int count = std::min<int64_t>(TILES, of.tiles() - first);
    to_points<6, 1, from_pixels>(of, pixels, from, first, count, points.data());
    to_points<4, 0, from_gradient>(of, gradient, to, first, count, slopes.data());
    for (int64_t point = 0; point < POINTS; ++point)
      multiply<true>(
          &points[point * TILES * from], from, 1, &slopes[point * TILES * to], to, &sums[point * size], from, count);
  }
  for (int64_t at = 0; at < size; at += 8) {
    Eight down[6][3], across[3], column[6];
    for (int j = 0; j < 6; ++j) {
      for (int i = 0; i < 6; ++i) column[i] = load(&sums[(i * 6 + j) * size + at]);
      to_kernel(column, 1, down[j]);
    }
    for (int i = 0; i < 3; ++i) {
      to_kernel(&down[0][i], 3, across);
      for (int j = 0; j < 3; ++j) store(kernel_gradient + (i * 3 + j) * size + at, across[j]);
    }
  }
  std::fill_n(bias_gradient, to, 0.f);
  for (int64_t pixel = 0; pixel < images * rows * columns; ++pixel)
    for (int channel = 0; channel < to; ++channel) bias_gradient[channel] += gradient[pixel * to + channel];
}

}  // extern "C"
