/* A stand-in for libnvidia-ml.so.1: what it answers is steered by environment variables, read at each call.
 *
 * STUB_GPUS=2                     how many GPUs there are
 * STUB_<function>=3               that function returns this code; with _<index> for one GPU only
 * STUB_<VALUE>_<index>=350000     the value of a quantity: POWER, ENERGY, UTILIZATION, ...
 *
 * As in the real library, a call before nvmlInit or after the last nvmlShutdown gives 1 (uninitialized).
 * -DOLD leaves out the functions that old drivers do not have.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int index; int slice; } Device;
static Device devices[16], slices[16];
static int users = 0;

static unsigned long long number(const char *name, int index, unsigned long long otherwise) {
  char variable[128];
  const char *text = NULL;
  if (index >= 0) {
    snprintf(variable, sizeof variable, "STUB_%s_%d", name, index);
    text = getenv(variable);
  }
  if (!text) {
    snprintf(variable, sizeof variable, "STUB_%s", name);
    text = getenv(variable);
  }
  return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static int status(const char *function, int index) {
  if (!users) return 1;
  return (int)number(function, index, 0);
}

#define ASK(device) \
  { int code = status(__func__, (device) ? (device)->index : -1); if (code) return code; }

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  int code = (int)number("nvmlInitWithFlags", -1, 0);
  if (!code) users++;
  return code;
}
int nvmlShutdown(void) { if (!users) return 1; users--; return 0; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stub"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
  ASK((Device *)NULL)
  *count = (unsigned)number("GPUS", -1, 1);
  return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
  int code = status(__func__, (int)index);
  if (code) return code;
  devices[index].index = (int)index;
  *device = &devices[index];
  return 0;
}
int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
  ASK(device)
  snprintf(text, length, device->slice ? "MIG-%d%d000000" : "GPU-%d0000000-stub", device->index, device->slice);
  return 0;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
  int index = atoi(uuid + strlen("GPU-")) / 10000000;
  int code = status(__func__, index);
  if (code) return code;
  *device = &devices[index];
  return 0;
}
int nvmlDeviceGetName(Device *device, char *text, unsigned length) {
  ASK(device)
  snprintf(text, length, "Stub %d", device->index);
  return 0;
}
int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
  ASK(device)
  *current = *pending = (unsigned)number("MIG", device->index, 0);
  return *current ? 0 : 3;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { ASK(device) *count = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned place, Device **slice) {
  ASK(device)
  if (place != 2) return 6;
  slices[device->index].index = device->index;
  slices[device->index].slice = 2;
  *slice = &slices[device->index];
  return 0;
}
int nvmlDeviceGetUtilizationRates(Device *device, unsigned *rates) {
  ASK(device)
  rates[0] = (unsigned)number("UTILIZATION", device->index, 75);
  rates[1] = 10;
  return 0;
}
int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *memory) {
  ASK(device)
  memory[0] = 80000000000ULL;
  memory[2] = number("MEMORY", device->index, 20000000000ULL);
  memory[1] = memory[0] - memory[2];
  return 0;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
  ASK(device)
  *milliwatts = (unsigned)number("POWER", device->index, 350500);
  return 0;
}
int nvmlDeviceGetClockInfo(Device *device, int type, unsigned *megahertz) {
  ASK(device)
  *megahertz = type == 1 ? 1980 : 7;
  return 0;
}
int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *celsius) {
  ASK(device)
  *celsius = sensor == 0 ? 41 : 7;
  return 0;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *bits) {
  ASK(device)
  *bits = number("REASONS", device->index, 1);
  return 0;
}
#ifndef OLD
int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
  ASK(device)
  *millijoules = number("ENERGY", device->index, 5000000);
  return 0;
}
int nvmlDeviceGetTemperatureV(Device *device, int *request) {
  ASK(device)
  if (request[0] != 0x100000C) return 25;
  request[2] = request[1] == 0 ? 63 : 7;
  return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *bits) {
  ASK(device)
  *bits = number("REASONS", device->index, 1);
  return 0;
}
#endif
