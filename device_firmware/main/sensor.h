/* sensor.h: where samples come from. Replace sensor.c by your own driver and keep these two.
 *
 * A frame is one value per channel, in the unit that the model was trained on (an accelerometer: g
 * or m/s2; the manifest's scale turns it into the tensor's integers).
 */
#ifndef MAIN_SENSOR_H
#define MAIN_SENSOR_H

#include <stdint.h>

#define SENSOR_CHANNELS_MAX 8u

struct sensor_info {
    uint32_t channels; /* 1 .. SENSOR_CHANNELS_MAX */
    uint32_t rate_hz;  /* frames a second, 1 .. 1000 */
};

/* Called once, by the task that will read. 0, or negative: there is no sensor. */
int sensor_open(struct sensor_info *info);

/* Waits for the next frame and writes info.channels values. 0, or negative: samples were lost. */
int sensor_read(float *frame);

#endif
