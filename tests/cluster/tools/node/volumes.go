package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// The provisioner of the cluster's two storage classes: a folder of the node
// for every claim, as a "local" volume. Unlike the controller manager's
// host-path volumes these are given to the pod's fsGroup by the kubelet, as a
// CSI driver's are, so a container that is not root can write. The folder is
// made root-owned 0755, and removed with the claim.
const (
	provisionerName        = "cluster.cartulary.example/local"
	provisionedAnnotation  = "pv.kubernetes.io/provisioned-by"
	wantedAnnotation       = "volume.kubernetes.io/storage-provisioner"
	selectedNodeAnnotation = "volume.kubernetes.io/selected-node"
	defaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"
)

// classes maps each storage class to when it binds.
var classes = map[string]storagev1.VolumeBindingMode{
	"standard":      storagev1.VolumeBindingImmediate,
	"local-fsgroup": storagev1.VolumeBindingWaitForFirstConsumer,
}

func newVolumeProvisionerCommand() *cobra.Command {
	var kubeconfig, dir, node string
	command := &cobra.Command{
		Use:          "volume-provisioner",
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			p := &provisioner{client: client, dir: dir, node: node, wake: make(chan struct{}, 1)}
			return p.run(cmd.Context())
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&dir, "dir", "", "the folder that holds the volumes")
	command.Flags().StringVar(&node, "node", "", "the node the volumes are on")
	return command
}

type provisioner struct {
	client    kubernetes.Interface
	dir, node string
	claims    corelisters.PersistentVolumeClaimLister
	volumes   corelisters.PersistentVolumeLister
	wake      chan struct{} // holds one: something changed since the last sync
}

func (p *provisioner) run(ctx context.Context) error {
	if err := p.createClasses(ctx); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(p.client, 0)
	core := factory.Core().V1()
	p.claims, p.volumes = core.PersistentVolumeClaims().Lister(), core.PersistentVolumes().Lister()
	for _, informer := range []cache.SharedIndexInformer{
		core.PersistentVolumeClaims().Informer(), core.PersistentVolumes().Informer(),
	} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { p.poke() },
			UpdateFunc: func(any, any) { p.poke() },
		}); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		if err := p.sync(ctx); err != nil {
			klog.ErrorS(err, "will try again")
			time.AfterFunc(time.Second, p.poke)
		}
	}
}

func (p *provisioner) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *provisioner) createClasses(ctx context.Context) error {
	for name, mode := range classes {
		class := &storagev1.StorageClass{
			ObjectMeta:        metav1.ObjectMeta{Name: name},
			Provisioner:       provisionerName,
			VolumeBindingMode: &mode,
		}
		if name == "standard" {
			class.Annotations = map[string]string{defaultClassAnnotation: "true"}
		}
		if _, err := p.client.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// sync brings every claim and volume one step further. It can be repeated at will.
func (p *provisioner) sync(ctx context.Context) error {
	claims, err := p.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, claim := range claims {
		if !p.wants(claim) {
			continue
		}
		if err := p.provision(ctx, claim); err != nil {
			return err
		}
	}
	volumes, err := p.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, volume := range volumes {
		if volume.Annotations[provisionedAnnotation] != provisionerName ||
			volume.Status.Phase != corev1.VolumeReleased || volume.DeletionTimestamp != nil ||
			volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.dir, volume.Name)); err != nil {
			return err
		}
		if err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// wants says whether the claim is ours, has no volume yet, and may have one now.
func (p *provisioner) wants(claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil ||
		claim.Spec.StorageClassName == nil || claim.Annotations[wantedAnnotation] != provisionerName {
		return false
	}
	mode, known := classes[*claim.Spec.StorageClassName]
	return known && (mode == storagev1.VolumeBindingImmediate || claim.Annotations[selectedNodeAnnotation] != "")
}

func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	name := fmt.Sprintf("pvc-%s", claim.UID)
	if _, err := p.volumes.Get(name); err == nil {
		return nil // made in an earlier round, not bound yet
	}
	path := filepath.Join(p.dir, name)
	if err := os.Mkdir(path, 0o755); err != nil && !os.IsExist(err) {
		return err
	}
	mode := corev1.PersistentVolumeFilesystem
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{provisionedAnnotation: provisionerName},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			StorageClassName:              *claim.Spec.StorageClassName,
			VolumeMode:                    &mode,
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: path},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{
				Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{p.node},
					}},
				}}},
			},
		},
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
