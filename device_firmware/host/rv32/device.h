/* device.h: statuses with which the emulated device ends; device.py reads them as reset reasons. */
#ifndef FLEET_RV32_DEVICE_H
#define FLEET_RV32_DEVICE_H

#define DEVICE_REBOOT 80   /* the core asked for it */
#define DEVICE_WATCHDOG 81 /* the partner hangs */

#endif
