package main

import (
	"context"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	ctl "k8s.io/kubectl/pkg/cmd"
	ctlutil "k8s.io/kubectl/pkg/cmd/util"
	kubeapiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	kubecontrollermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	kubeproxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubescheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubenode "k8s.io/kubernetes/cmd/kubelet/app"
)

func etcd() int {
	etcdmain.Main(os.Args)
	return 0
}

func apiServer() int {
	return cli.Run(kubeapiserver.NewAPIServerCommand())
}

func controllerManager() int {
	return cli.Run(kubecontrollermanager.NewControllerManagerCommand())
}

func scheduler() int {
	return cli.Run(kubescheduler.NewSchedulerCommand())
}

func kubelet() int {
	return cli.Run(kubenode.NewKubeletCommand(context.Background()))
}

func proxy() int {
	return cli.Run(kubeproxy.NewProxyCommand())
}

func kubectl() int {
	if err := cli.RunNoErrOutput(ctl.NewDefaultKubectlCommand()); err != nil {
		ctlutil.CheckErr(err)
	}
	return 0
}
