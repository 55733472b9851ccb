// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause
/*
 * A device that migrates and does nothing else. Debian packages no driver that migrates without
 * hardware, and the kernel's own sample (mtty) not at all. As drivers of Linux do, it asks
 * vfio_mig_get_next_state() for each step, and has one file for each data session. What is
 * transferred in a state, and how that ends, is in states.h, which is made of the table.
 */
#include <linux/anon_inodes.h>
#include <linux/device/faux.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vermagic.h>
#include <linux/vfio.h>

#include "states.h"

#define SIZE 100 /* bytes of a stream */
#define BYTE 7 /* each of them */

static unsigned int flags;
module_param(flags, uint, 0444);

struct mig_device {
	struct vfio_device vdev;
	struct mutex lock; /* all that follows */
	enum vfio_device_mig_state state;
	struct file *session;
};

/* What a file has; it outlives the session, and the device in it may not be asked then. */
struct mig_session {
	struct mutex lock; /* all that follows, and the position of the file */
	size_t size; /* how much can be read, or was written */
	bool grows;
	bool closed;
	u8 data[SIZE];
};

static struct faux_device *parent;
static struct mig_device *mig;

static ssize_t mig_read(struct file *file, char __user *to, size_t size, loff_t *position)
{
	struct mig_session *session = file->private_data;
	ssize_t ret;

	mutex_lock(&session->lock);
	size = min(size, session->size - (size_t)file->f_pos);
	if (session->closed)
		ret = -ENODEV;
	else if (!size)
		ret = session->grows ? -ENOMSG : 0;
	else if (copy_to_user(to, session->data + file->f_pos, size))
		ret = -EFAULT;
	else
		ret = size;
	if (ret > 0)
		file->f_pos += ret;
	mutex_unlock(&session->lock);
	return ret;
}

static ssize_t mig_write(struct file *file, const char __user *from, size_t size, loff_t *position)
{
	struct mig_session *session = file->private_data;
	ssize_t ret = size;

	mutex_lock(&session->lock);
	if (session->closed)
		ret = -ENODEV;
	else if (size > SIZE - session->size)
		ret = -ENOMEM;
	else if (copy_from_user(session->data + session->size, from, size))
		ret = -EFAULT;
	else
		session->size += size;
	mutex_unlock(&session->lock);
	return ret;
}

static int mig_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static const struct file_operations mig_reading = {
	.owner = THIS_MODULE,
	.read = mig_read,
	.release = mig_release,
};

static const struct file_operations mig_writing = {
	.owner = THIS_MODULE,
	.write = mig_write,
	.release = mig_release,
};

static const struct mig_state *state_of(enum vfio_device_mig_state value)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(states) - 1; i++) {
		if (states[i].value == value)
			break;
	}
	return &states[i];
}

static void mig_close_session(struct mig_device *device)
{
	struct mig_session *session;

	if (!device->session)
		return;
	session = device->session->private_data;
	mutex_lock(&session->lock);
	session->closed = true;
	mutex_unlock(&session->lock);
	fput(device->session);
	device->session = NULL;
}

static struct file *mig_open_session(struct mig_device *device, const struct mig_state *state)
{
	const bool writes = state->transfer == 'w';
	struct mig_session *session = kzalloc(sizeof(*session), GFP_KERNEL);
	struct file *file;

	if (!session)
		return ERR_PTR(-ENOMEM);
	mutex_init(&session->lock);
	session->grows = state->end == 't';
	session->size = writes ? 0 : session->grows ? SIZE / 2 : SIZE;
	memset(session->data, BYTE, writes ? 0 : SIZE);
	file = anon_inode_getfile("vfio_mig_device", writes ? &mig_writing : &mig_reading, session,
				  writes ? O_WRONLY : O_RDONLY);
	if (IS_ERR(file)) {
		kfree(session);
		return file;
	}
	stream_open(file->f_inode, file);
	device->session = file;
	return get_file(file);
}

/* The last of what a source had: what could grow is complete. */
static void mig_complete_session(struct mig_device *device)
{
	struct mig_session *session = device->session->private_data;

	mutex_lock(&session->lock);
	session->grows = false;
	session->size = SIZE;
	mutex_unlock(&session->lock);
}

static int mig_judge(struct mig_device *device)
{
	struct mig_session *session;
	int ret = -EINVAL;

	if (!device->session) /* it was closed with the device */
		return ret;
	session = device->session->private_data;
	mutex_lock(&session->lock);
	if (session->size == SIZE && session->data[0] == BYTE && session->data[SIZE - 1] == BYTE)
		ret = 0;
	mutex_unlock(&session->lock);
	return ret;
}

/* Returns the file of a session that opens, NULL, or an error that leaves all as it is. */
static struct file *mig_step(struct mig_device *device, enum vfio_device_mig_state next)
{
	const struct mig_state *here = state_of(device->state), *there = state_of(next);

	if (here->transfer == there->transfer) {
		if (here->end != there->end && there->end == 'f' && device->session)
			mig_complete_session(device);
		return NULL;
	}
	if (here->transfer == 'w') {
		const int ret = mig_judge(device);

		if (ret)
			return ERR_PTR(ret);
	}
	mig_close_session(device);
	return there->transfer == 'n' ? NULL : mig_open_session(device, there);
}

static struct file *mig_set_state(struct vfio_device *vdev, enum vfio_device_mig_state target)
{
	struct mig_device *device = container_of(vdev, struct mig_device, vdev);
	enum vfio_device_mig_state next;
	struct file *file = NULL;
	int ret;

	mutex_lock(&device->lock);
	while (device->state != target && !IS_ERR(file)) {
		ret = vfio_mig_get_next_state(vdev, device->state, target, &next);
		file = ret ? ERR_PTR(ret) : mig_step(device, next);
		if (!IS_ERR(file))
			device->state = next;
	}
	mutex_unlock(&device->lock);
	return file;
}

static int mig_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct mig_device *device = container_of(vdev, struct mig_device, vdev);

	mutex_lock(&device->lock);
	*state = device->state;
	mutex_unlock(&device->lock);
	return 0;
}

static int mig_get_data_size(struct vfio_device *vdev, unsigned long *length)
{
	*length = SIZE;
	return 0;
}

static const struct vfio_migration_ops mig_ops = {
	.migration_set_state = mig_set_state,
	.migration_get_state = mig_get_state,
	.migration_get_data_size = mig_get_data_size,
};

static long mig_ioctl(struct vfio_device *vdev, unsigned int command, unsigned long argument)
{
	struct mig_device *device = container_of(vdev, struct mig_device, vdev);

	if (command != VFIO_DEVICE_RESET)
		return -ENOTTY;
	mutex_lock(&device->lock);
	device->state = INITIAL;
	mig_close_session(device);
	mutex_unlock(&device->lock);
	return 0;
}

static int mig_init_device(struct vfio_device *vdev)
{
	struct mig_device *device = container_of(vdev, struct mig_device, vdev);

	mutex_init(&device->lock);
	device->state = INITIAL;
	vdev->migration_flags = flags;
	vdev->mig_ops = &mig_ops;
	return 0;
}

static void mig_close_device(struct vfio_device *vdev)
{
	struct mig_device *device = container_of(vdev, struct mig_device, vdev);

	mutex_lock(&device->lock);
	mig_close_session(device);
	mutex_unlock(&device->lock);
}

static const struct vfio_device_ops mig_device_ops = {
	.name = "vfio_mig_device",
	.init = mig_init_device,
	.close_device = mig_close_device,
	.ioctl = mig_ioctl,
};

static int __init mig_init(void)
{
	int ret;

	parent = faux_device_create("vfio_mig_device", NULL, NULL);
	if (!parent)
		return -ENODEV;
	mig = vfio_alloc_device(mig_device, vdev, &parent->dev, &mig_device_ops);
	ret = IS_ERR(mig) ? PTR_ERR(mig) : vfio_register_emulated_iommu_dev(&mig->vdev);
	if (!ret)
		return 0;
	if (!IS_ERR(mig))
		vfio_put_device(&mig->vdev);
	faux_device_destroy(parent);
	return ret;
}
module_init(mig_init);

static void __exit mig_exit(void)
{
	vfio_unregister_group_dev(&mig->vdev);
	vfio_put_device(&mig->vdev);
	faux_device_destroy(parent);
}
module_exit(mig_exit);

MODULE_DESCRIPTION("A device that migrates and does nothing else");
MODULE_LICENSE("Dual BSD/GPL");

/* What kbuild adds to a module. Here it is compiled without it. */
MODULE_INFO(name, KBUILD_MODNAME);
MODULE_INFO(vermagic, VERMAGIC_STRING);
__visible struct module __this_module __section(".gnu.linkonce.this_module") = {
	.name = KBUILD_MODNAME,
	.init = init_module,
	.exit = cleanup_module,
	.arch = MODULE_ARCH_INIT,
};
